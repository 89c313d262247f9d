"""SALT-Net and the detectors with SALT on hostile data: all is finite, and everything has a gradient."""

import math

import pytest
import torch

from tests.modeling.dense.hostile import (
    HEIGHT,
    KINDS,
    RATE,
    WIDTH,
    HostileBatches,
    huge_boxes,
    image_of,
    narrow_model,
    no_boxes,
    ordinary_boxes,
    tiny_boxes,
    train,
)
from tests.modeling.htc.small import without_gradient

# At ten times the rate RetinaNet, whose towers have no norm, diverges, whatever the precision.
RATES = {
    "salt_r50_fpn_1x": 10 * RATE,
    "salt_gfl_r50_fpn_1x": 10 * RATE,
    "salt_atss_r50_fpn_1x": 10 * RATE,
    "salt_fcos_r50_fpn_1x": 10 * RATE,
    "salt_retinanet_r50_fpn_1x": RATE,
    "salt_tood_r50_fpn_1x": 10 * RATE,
}
each_system = pytest.mark.parametrize("system", RATES)


def flat_boxes(generator):
    """Return boxes without an area: points, and lines of either direction."""
    corner = torch.rand(6, 2, generator=generator) * torch.tensor([WIDTH * 0.5, HEIGHT * 0.5])
    side = torch.tensor([[0.0, 0], [0, 0], [20, 0], [0, 20], [40, 0], [0, 30]])
    return torch.cat([corner, corner + side], dim=1)


def boxes_outside(generator):
    """Return boxes beside the image, and far from it."""
    corner = torch.tensor([[-60.0, -60], [WIDTH + 3, 5], [10, HEIGHT + 1], [5000, 7000]])
    return torch.cat([corner, corner + 30], dim=1)


def one_box(generator):
    """Return one of an ordinary size."""
    return ordinary_boxes(generator)[:1]


def crowd(generator):
    """Return two hundred boxes of all sizes."""
    corner = torch.rand(200, 2, generator=generator) * torch.tensor([WIDTH * 0.8, HEIGHT * 0.8])
    return torch.cat([corner, corner + 2 + 40 * torch.rand(200, 2, generator=generator)], dim=1)


ALL_KINDS = (*KINDS, flat_boxes, boxes_outside, one_box, crowd)
BATCHES = {
    "nothing": (no_boxes, no_boxes),
    "one object": (one_box,),
    "one image with, one without": (ordinary_boxes, no_boxes),
    "beside the images": (boxes_outside, boxes_outside),
    "huge": (huge_boxes,),
    "no area": (flat_boxes, tiny_boxes),
    "a crowd": (crowd, no_boxes),
}


@pytest.fixture(scope="module", params=[*((name, 0) for name in RATES), ("salt_tood_r50_fpn_1x", 1)])
def model(request):
    """Each detector, TOOD in each of its phases."""
    name, phase = request.param
    made = narrow_model(f"salt/{name}", switch=1 if "tood" in name else None).train()
    if "tood" in name:
        made.criterion.set_iteration(phase)
        assert made.criterion.aligned_now == bool(phase)
    return made


@pytest.mark.parametrize("kinds", BATCHES.values(), ids=BATCHES)
def test_every_parameter_has_a_finite_gradient(model, kinds):
    generator = torch.Generator().manual_seed(0)
    model.zero_grad(set_to_none=True)
    losses = model([image_of(kind, generator) for kind in kinds])
    assert all(loss.isfinite() for loss in losses.values()) and "loss_box_reg_init" in losses
    sum(losses.values()).backward()
    assert not without_gradient(model.head) and not without_gradient(model.backbone.bottom_up)
    if set(kinds) == {no_boxes}:
        assert losses["loss_box_reg_init"] == losses["loss_box_reg"] == 0
    if ordinary_boxes in kinds:
        assert losses["loss_box_reg_init"] > 0 and model.head.towers.operator.distances.weight.grad.any()


def unharmed(system, tmp_path, steps, dtype="fp16"):
    """Train with all kinds of images and check losses, gradients and steps."""
    model = narrow_model(f"salt/{system}", switch=steps // 2 if "tood" in system else None)
    batches = HostileBatches(ALL_KINDS, images=2 * len(ALL_KINDS))
    rate, warmup = RATES[system], steps // 2
    seen = train(model, batches, tmp_path, steps=steps, dtype=dtype, rate=rate, warmup_iters=warmup)
    assert len(seen.losses) == steps and all(map(math.isfinite, seen.losses)) and max(seen.losses) > 0.5
    assert not seen.wild
    if "retinanet" not in system:
        assert seen.skipped(steps) == []


@each_system
def test_hostile_data(system, tmp_path):
    unharmed(system, tmp_path, 18)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@each_system
def test_two_hundred_hostile_steps(system, dtype, tmp_path):
    unharmed(system, tmp_path, 200, dtype)
