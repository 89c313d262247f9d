"""Training of TSD's head from given samples against the reference arrays: losses, gradients, steps."""

from dataclasses import dataclass

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.engine.hooks import LRScheduler
from torch import Tensor, nn

from htd.engine.solver import warmup_multistep
from htd.engine.trainer import Precision, Trainer
from tests.modeling.tsd.small import HEAD_LOSSES, background_last, images, maps, roi_heads, samples
from tests.recorded import arrays as numpy_arrays
from tests.recorded import close, published_weights, tensors

# Published name -> ours.
LAYERS = {
    "shared_fc.0": "trunk",
    "delta_c.0": "classification.shift.0",
    "delta_c.2": "classification.shift.2",
    "delta_r.0": "regression.shift.0",
    "delta_r.2": "regression.shift.2",
    "shared_fcs.0": "sibling.fcs.0",
    "shared_fcs.1": "sibling.fcs.1",
    "fc_cls": "sibling.cls_score",
    "fc_reg": "sibling.bbox_pred",
    "TSD_pc_fcs.0": "classification.fcs.0",
    "TSD_pc_fcs.1": "classification.fcs.1",
    "TSD_fc_cls": "classification.cls_score",
    "TSD_pr_fcs.0": "regression.fcs.0",
    "TSD_pr_fcs.1": "regression.fcs.1",
    "TSD_fc_reg": "regression.bbox_pred",
}
LOSS_TOLERANCE, WHOLE_GRADIENTS = 1e-4, 2e-4
# Case -> size of its images, relative tolerance of gradient norms (1e-4 absolute is added).
CASES = {"train_small": ((320, 416), 2e-3), "train_full": ((256, 320), 1e-2)}


class GivenSamples:
    """Stands for a stage's sampler."""

    def __init__(self, found):
        self.found = found

    def __call__(self, proposals, targets):
        return self.found


class HeadsOnGivenSamples(nn.Module):
    """The RoI heads of a case with its features and samples: what a training loop wants of a model."""

    def __init__(self, case: str, heads: nn.Module, size: tuple[int, int], device: torch.device):
        super().__init__()
        self.roi_heads = heads
        drawn = [s.to(device) for s in samples(tensors("tsd", case), size, self.roi_heads.num_classes)]
        self.stage = self.roi_heads.stages[0]
        self.sampler, self.stage.sampler = self.stage.sampler, GivenSamples(drawn)
        name = case.replace("train_", "train.")
        self.maps = {key: m.to(device) for key, m in maps(case, name, len(drawn), size).items()}
        self.images = images(size, len(drawn))
        self.to(device).train()

    def forward(self, batch: list[dict]) -> dict[str, Tensor]:
        return self.roi_heads(self.images, self.maps, [], [])[1]

    def parameter(self, published: str) -> Tensor:
        """Return a parameter of the head, or a map ``feat.P<level>``, by its published name."""
        if published.startswith("feat."):
            return self.maps[published.removeprefix("feat.").lower()]
        layer, _, kind = published.rpartition(".")
        return self.stage.head.get_parameter(f"{LAYERS[layer]}.{kind}")

    def give_back(self):
        """Leave the heads, which other tests use too, as they were."""
        self.stage.sampler = self.sampler
        self.roi_heads.eval().cpu()


@dataclass
class Step:
    """The losses of a case and their gradients.

    Attributes:
        grads: published loss -> published name of a parameter or map -> gradient, None if there is none.
    """

    case: str
    names: list[str]
    arrays: dict[str, Tensor]
    losses: dict[str, Tensor]
    grads: dict[str, dict[str, Tensor | None]]


@pytest.fixture(scope="module", params=CASES)
def step(request, device):
    case = request.param
    size, _ = CASES[case]
    model = HeadsOnGivenSamples(case, roi_heads(case), size, device)
    for features in model.maps.values():
        features.requires_grad_()
    names = numpy_arrays("tsd", case)["names"].tolist()
    wanted = [model.parameter(name) for name in names]
    losses = model([])
    each = {name: losses[ours] for name, ours in HEAD_LOSSES.items()} | {"total": sum(losses.values())}
    grads = {}
    for name, loss in each.items():
        found = torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True)
        grads[name] = dict(zip(names, found, strict=True))
    yield Step(case, names, tensors("tsd", case), losses, grads)
    model.give_back()


def test_losses(step):
    assert set(step.losses) == set(HEAD_LOSSES.values())
    for theirs, ours in HEAD_LOSSES.items():
        close(step.losses[ours], step.arrays[theirs], 0, LOSS_TOLERANCE)
    close(sum(step.losses.values()), step.arrays["total"], 0, LOSS_TOLERANCE)


def norms(grads: dict[str, Tensor | None]) -> Tensor:
    return torch.stack([torch.zeros(()) if g is None else g.norm().cpu() for g in grads.values()])


@pytest.mark.parametrize("loss", [*HEAD_LOSSES, "total"])
def test_gradient_norms(step, loss):
    """Of all parameters and maps; those that a loss does not reach have none."""
    each = dict(zip(HEAD_LOSSES, step.arrays["grad_norm"], strict=True))
    wanted = each.get(loss, step.arrays["grad_norm_total"])
    close(norms(step.grads[loss]), wanted, 1e-4, CASES[step.case][1])
    for (name, grad), norm in zip(step.grads[loss].items(), wanted.tolist(), strict=True):
        assert (grad is None or not grad.any()) == (norm == 0), f"{loss} and {name}"


# Of the full-sized case norms alone were recorded.
@pytest.mark.parametrize("step", ["train_small"], indirect=True)
def test_whole_gradients(step):
    stored = {k.removeprefix("grad:"): v for k, v in step.arrays.items() if k.startswith("grad:")}
    assert stored
    for name, wanted in stored.items():
        layer = name.rpartition(".")[0]
        if layer.endswith("fc_cls"):
            wanted = background_last(wanted[None])[0]
        elif layer.endswith("fc_reg"):
            assert not wanted[:4].any()
            wanted = wanted[4:]  # the background has no box here
        close(step.grads["total"][name], wanted, WHOLE_GRADIENTS)


def test_every_parameter_gets_a_gradient(step):
    assert len(step.names) == 2 * len(LAYERS) + 4
    assert all(grad is not None for grad in step.grads["total"].values())


def optimizer_of_the_config(model: nn.Module) -> torch.optim.Optimizer:
    config = LazyConfig.load("configs/tsd/tsd_faster_r50_fpn_1x.py").optimizer
    config.params.model = model
    return instantiate(config)


def norm_of_background_box(name: str, rates: list[float]) -> float:
    """Return the norm of the background's share of a published parameter after steps that decay it only.

    Our models have no box for the background.
    """
    rows = nn.Parameter(published_weights("tsd", "sgd_steps")[f"bbox_head.{name}"][:4])
    optimizer = optimizer_of_the_config(nn.ParameterList([rows]))
    for rate in rates:
        rows.grad = torch.zeros_like(rows)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    return rows.norm().item()


def test_steps_of_the_optimizer(tmp_path):
    """The loop, schedule and optimizer of our trainings, from the published weights on."""
    arrays, names = tensors("tsd", "sgd_steps"), numpy_arrays("tsd", "sgd_steps")
    steps, device = len(arrays["losses"]), torch.device("cpu")
    # Not those of the cache: they are about to change.
    model = HeadsOnGivenSamples("sgd_steps", roi_heads.__wrapped__("sgd_steps"), (256, 320), device)
    trainer = Trainer(
        model,
        [[]] * steps,
        optimizer_of_the_config(model),
        precision=Precision(device),
        clip_norm=6.0,
        output_dir=str(tmp_path),
    )
    rate = warmup_multistep(max_iter=steps, milestones=[0.99], warmup_iters=4, warmup_factor=1 / 32)
    trainer.register_hooks([LRScheduler(scheduler=rate)])
    trainer.train(0, steps)

    def history(name):
        return torch.tensor([value for value, _ in trainer.storage.history(name).values()])

    close(history("lr"), arrays["lr"], 0, 1e-6)
    losses = torch.stack([history(HEAD_LOSSES[name]) for name in names["loss_names"].tolist()], dim=1)
    close(losses, arrays["losses"], 0, 1e-3)
    close(history("grad_norm"), arrays["grad_norm"], 0, 1e-3)
    for name, wanted in zip(names["param_names"].tolist(), arrays["param_norm"], strict=True):
        norm = model.parameter(name).detach().norm()
        if name.startswith(("fc_reg", "TSD_fc_reg")):
            norm = norm.hypot(torch.tensor(norm_of_background_box(name, arrays["lr"].tolist())))
        close(norm, wanted, 0, 1e-3)
