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

LEAVES = [
    "configs/htd/htd_r50_fpn_1x.py",
    "configs/htc/htc_r50_fpn_1x.py",
    "configs/tsd/tsd_mask_r50_fpn_1x.py",
    "configs/tsd/tsd_cascade_r50_fpn_20e.py",
    "configs/tood/tood_r50_fpn_1x.py",
    "configs/baselines/gfl_r50_fpn_1x.py",
]


def model_of(leaf):
    """Return a seeded reduced model; mask heads, where there are some, compute activations again."""
    config = reduced_model(leaf)
    if "checkpoint_heads" in config.get("roi_heads", {}).get("mask_branch", {}):
        config.roi_heads.mask_branch.checkpoint_heads = True
    torch.manual_seed(0)
    return instantiate(config).train()


def given(rank, seed):
    """Return three objects on the first rank; on the other none, no field for masks, no labelled pixel."""
    item = example((3, 0)[rank], seed=seed)
    if rank:
        item["instances"].remove("gt_masks")
        item["sem_seg"] = torch.full_like(item["sem_seg"], 255)
    return item


def two_steps(folder):
    """Run two steps a model; the second fails if a parameter had no part in the losses of the first."""
    torch.set_num_threads(1)
    gradients = {}
    for leaf in LEAVES:
        model = DistributedDataParallel(model_of(leaf), find_unused_parameters=False)
        for step in range(2):
            model.zero_grad()
            # In the second step every training is in the last of its phases.
            with EventStorage(step * 10**6):
                losses = model([given(comm.get_rank(), seed=step)])
            sum(losses.values()).backward()
        gradients[leaf] = {name: p.grad for name, p in model.module.named_parameters() if p.requires_grad}
    torch.save(gradients, Path(folder) / f"rank{comm.get_rank()}.pth")


@pytest.fixture(scope="module")
def gradients(tmp_path_factory):
    """Return leaf -> name -> gradient of each rank; one launch, because it takes longer than the steps."""
    folder = tmp_path_factory.mktemp("ranks")
    launch(two_steps, Processes(per_machine=2), device="cpu", args=(str(folder),))
    return [torch.load(folder / f"rank{rank}.pth", weights_only=True) for rank in range(2)]


@pytest.mark.dist
@pytest.mark.parametrize("leaf", LEAVES)
def test_rank_without_objects_takes_part(gradients, leaf):
    first, second = (rank[leaf] for rank in gradients)
    assert len(first) > 50
    for name, gradient in first.items():
        assert torch.isfinite(gradient).all(), name
        torch.testing.assert_close(gradient, second[name])
