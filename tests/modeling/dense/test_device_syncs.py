"""A training step of any dense head never waits for the device: no shape, no branch depends on a value."""

import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from torch.utils._python_dispatch import TorchDispatchMode

from tests.configs.reduced import example, reduced_model
from tests.modeling.dense.reference import decoded

# All kinds of heads and of criteria, and those whose training has two phases.
LEAVES = [
    *(f"configs/baselines/{name}_r50_fpn_1x.py" for name in ("retinanet", "fcos", "atss", "gfl")),
    *(f"configs/tood/tood_{name}_r50_fpn_1x.py" for name in ("retinanet", "fcos")),
]
PHASED = [f"configs/tood/tood_r50_fpn_{name}1x.py" for name in ("", "anchor_based_")]
CASES = [(leaf, None) for leaf in LEAVES] + [(leaf, aligned) for leaf in PHASED for aligned in (False, True)]
STRIDES = (8, 16, 32, 64, 128)
SIZES = [(64, 96), (50, 70)]
# Operators whose output's shape, or whose output in Python, depends on the values of a tensor.
WAITING = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
# These do only when a mask is among the indices.
INDEXING = {
    getattr(torch.ops.aten, name)
    for name in ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index")
}


class Waits(Exception):
    """An operator would make a GPU's host wait."""


class NoWaiting(TorchDispatchMode):
    """Refuses such operators, in the backward pass, too."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in INDEXING:
            waits = any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1])
        else:
            waits = bool(WAITING & set(func.tags))
        if waits:
            raise Waits(str(func))
        return func(*args, **(kwargs or {}))


def on_the_host(self, *args):
    raise Waits("values were copied to the host")


@pytest.fixture
def no_waiting(monkeypatch):
    """Refuse what waits; on the CPU two methods read the memory without an operator."""
    with monkeypatch.context() as patch, NoWaiting():
        for name in ("tolist", "numpy"):
            patch.setattr(torch.Tensor, name, on_the_host)
        yield


@pytest.mark.parametrize("leaf, aligned", CASES)
def test_training_does_not_wait(leaf, aligned, request):
    config = reduced_model(leaf)
    config.backbone = None
    model = instantiate(config).train()
    if aligned is not None:
        model.criterion.set_iteration(model.criterion.switch_iter if aligned else 0)
        assert model.criterion.aligned_now == aligned
    objects = [example(3)["instances"], example(0)["instances"]]
    truth = [
        Instances(size, gt_boxes=Boxes(x.gt_boxes.tensor), gt_classes=x.gt_classes)
        for size, x in zip(SIZES, objects, strict=True)
    ]
    maps = [torch.randn(2, 16, -(-64 // stride), -(-96 // stride)) for stride in STRIDES]
    request.getfixturevalue("no_waiting")
    losses = model.criterion(*decoded(model, maps), truth)
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in model.head.parameters())


@pytest.mark.parametrize(
    "waiting",
    [
        lambda x: x.sum().item(),
        lambda x: float(x[0]),
        lambda x: 1 if x[0] > 0 else 0,
        lambda x: range((x > 0).sum()),
        lambda x: x.tolist(),
        lambda x: x.numpy(),
        lambda x: x.nonzero(),
        lambda x: torch.where(x > 0),
        lambda x: x[x > 0],
        lambda x: x.index_put((x > 0,), x),
        lambda x: x.masked_select(x > 0),
        lambda x: x.unique(),
        lambda x: torch.equal(x, x),
        lambda x: x.repeat_interleave((x > 0).long()),
    ],
)
def test_what_waits_is_seen(waiting, no_waiting):
    with pytest.raises(Waits):
        waiting(torch.ones(3))


def test_what_waits_is_seen_in_a_backward_pass(no_waiting):
    x = torch.ones(3, requires_grad=True)
    x.register_hook(lambda gradient: gradient[gradient > 0])
    with pytest.raises(Waits):
        x.sum().backward()
