"""Models in two processes, one of them without any object or label."""

from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch.nn.parallel import DistributedDataParallel

from htd.engine.launch import Processes, launch
from tests.configs.reduced import example, reduced_model
from tests.modeling.dense.reference import priced
from tests.modeling.htc.small import randomise

# Their gradients depend on the processes by what the losses are divided by alone.
DENSE = [
    "configs/baselines/atss_r50_fpn_1x.py",
    "configs/baselines/gfl_r50_fpn_1x.py",
    "configs/tood/tood_r50_fpn_1x.py",
]
LEAVES = [
    "configs/htd/htd_r50_fpn_1x.py",
    "configs/htc/htc_r50_fpn_1x.py",
    "configs/tsd/tsd_mask_r50_fpn_1x.py",
    "configs/tsd/tsd_cascade_r50_fpn_20e.py",
    *DENSE,
]
# In the second step every training is in the last of its phases.
ITERATIONS = (0, 10**6)


def model_of(leaf):
    """Return a seeded reduced model; mask heads, where there are some, compute activations again."""
    config = reduced_model(leaf)
    if "checkpoint_heads" in config.get("roi_heads", {}).get("mask_branch", {}):
        config.roi_heads.mask_branch.checkpoint_heads = True
    torch.manual_seed(0)
    model = instantiate(config).train()
    # A new T-Head reads boxes at next to whole cells, where the gradient of what it reads jumps.
    return randomise(model) if leaf in DENSE else model


def given(rank, seed):
    """Return six objects on the first rank; on the other none, no field for masks, no labeled pixel."""
    item = example((6, 0)[rank], seed=seed)
    if rank:
        item["instances"].remove("gt_masks")
        item["sem_seg"] = torch.full_like(item["sem_seg"], 255)
    return item


def step(model, inputs, iteration):
    """Return the gradients by name of one step, which has no update."""
    model.zero_grad()
    with EventStorage(iteration):
        losses = model(inputs)
    sum(losses.values()).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def two_steps(folder):
    """Run two steps a model; the second fails if a parameter had no part in the losses of the first."""
    torch.set_num_threads(1)
    gradients = {}
    for leaf in LEAVES:
        model = DistributedDataParallel(model_of(leaf), find_unused_parameters=False)
        gradients[leaf] = [
            step(model, [given(comm.get_rank(), seed)], iteration)
            for seed, iteration in enumerate(ITERATIONS)
        ]
    torch.save(gradients, Path(folder) / f"rank{comm.get_rank()}.pth")


@pytest.fixture(scope="module")
def gradients(tmp_path_factory):
    """Return leaf -> step -> name -> gradient of each rank; one launch, which takes longer than the steps."""
    folder = tmp_path_factory.mktemp("ranks")
    launch(two_steps, Processes(per_machine=2), device="cpu", args=(str(folder),))
    return [torch.load(folder / f"rank{rank}.pth", weights_only=True) for rank in range(2)]


@pytest.mark.dist
@pytest.mark.parametrize("leaf", LEAVES)
def test_rank_without_objects_takes_part(gradients, leaf):
    for first, second in zip(*(rank[leaf] for rank in gradients), strict=True):
        assert len(first) > 50
        for name, gradient in first.items():
            assert torch.isfinite(gradient).all(), name
            torch.testing.assert_close(gradient, second[name])


@pytest.mark.dist
@pytest.mark.parametrize("leaf", DENSE)
@pytest.mark.parametrize("seed", range(len(ITERATIONS)))
def test_ranks_have_the_gradients_of_one_process_with_all_images(gradients, leaf, seed):
    """Sums of losses over the mean of the divisors, averaged over the processes."""
    model, found = model_of(leaf), []
    batch = [given(rank, seed) for rank in range(2)]
    with EventStorage(ITERATIONS[seed]):
        norms = priced(model, lambda: found.append(step(model, batch, ITERATIONS[seed]))).norms
    # The lower limits are on the mean: where they take hold, the two are not the same.
    for term in getattr(model.criterion, "aligned", model.criterion).terms:
        assert norms[term.name] > 2 * term.normalizer.least
    for name, gradient in found[0].items():
        rounding = 1e-4 * gradient.abs().max().item()
        torch.testing.assert_close(
            gradients[0][leaf][seed]["module." + name], gradient, rtol=1e-3, atol=rounding
        )
