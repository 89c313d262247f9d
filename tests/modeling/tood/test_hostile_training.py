"""No training of TOOD goes to NaN: hostile data, ten times the rate, half precision, extreme logits."""

import math

import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch.nn import functional as F

from htd.engine.guard import NonFiniteLossError
from htd.layers import giou_loss, product_logits, quality_focal_loss
from htd.modeling.dense import ScaledExp
from tests.modeling.dense.hostile import RATE, HostileBatches, mean, narrow_model, ordinary_boxes, train

ANCHOR_FREE, ANCHOR_BASED = "tood/tood_r50_fpn_1x", "tood/tood_r50_fpn_anchor_based_1x"
each_form = pytest.mark.parametrize("leaf", [ANCHOR_FREE, ANCHOR_BASED])
each_precision = pytest.mark.parametrize("dtype", ["bf16", "fp16"])


def unharmed(seen, steps: int, settled: int = 0) -> None:
    """Check that no step used or led to numbers that are not finite; the trainer refuses such losses.

    In the first ``settled`` steps the loss scaler may look for its factor.
    """
    assert len(seen.losses) == steps and all(map(math.isfinite, seen.losses))
    assert not seen.wild
    assert [step for step in seen.skipped(steps) if step >= settled] == []
    # Else nothing was trained.
    assert max(seen.losses) > 0.5


@each_form
@each_precision
def test_hostile_data_through_both_phases(leaf, dtype, tmp_path):
    """At the full rate after 8 steps, so that the short training is no gentler than the long one."""
    steps = 24
    model = narrow_model(leaf, switch=steps // 2)
    seen = train(model, HostileBatches(), tmp_path, steps=steps, dtype=dtype, rate=10 * RATE, warmup_iters=8)
    unharmed(seen, steps)


def test_hostile_data_aligned_from_the_start(tmp_path):
    model = narrow_model(ANCHOR_FREE, switch=0)
    seen = train(model, HostileBatches(), tmp_path, steps=20, dtype="fp16", rate=10 * RATE, warmup_iters=8)
    unharmed(seen, 20)


def test_loss_falls_at_the_published_rate(tmp_path):
    steps = 60
    batches = HostileBatches([ordinary_boxes], images=4)
    seen = train(
        narrow_model(ANCHOR_FREE, switch=40),
        batches,
        tmp_path,
        steps=steps,
        dtype="fp16",
        rate=RATE,
        warmup_iters=5,
    )
    unharmed(seen, steps)
    assert mean(seen.losses[30:40]) < 0.9 * mean(seen.losses[:10])
    assert mean(seen.losses[50:]) < mean(seen.losses[:10])


@pytest.mark.slow
@each_form
@each_precision
def test_a_thousand_hostile_steps(leaf, dtype, tmp_path):
    """As published: a warm-up of 500 steps; then the phases change."""
    model = narrow_model(leaf, switch=500)
    seen = train(model, HostileBatches(), tmp_path, steps=1000, dtype=dtype, rate=10 * RATE)
    unharmed(seen, 1000, settled=20)
    # Such a rate may end all scores at last, but not before the second phase has trained boxes.
    assert max(seen.losses[510:]) > 0.5


@pytest.mark.slow
def test_loss_falls_on_hostile_data_at_the_published_rate(tmp_path):
    """The losses change with the phase, so the first one is also compared with itself."""
    model = narrow_model(ANCHOR_FREE, switch=500)
    seen = train(model, HostileBatches(), tmp_path, steps=1000, dtype="fp16", rate=RATE)
    unharmed(seen, 1000, settled=20)
    assert mean(seen.losses[400:500]) < 0.9 * mean(seen.losses[:100])
    assert mean(seen.losses[900:]) < 0.9 * mean(seen.losses[:100])


# -- what goes wrong in the published form


def published_loss(x, m, quality):
    """Quality focal loss on probabilities, the root of a product differentiated as it stands."""
    p = (x.sigmoid() * m.sigmoid()).sqrt()
    return (F.binary_cross_entropy(p, quality, reduction="none") * (quality - p).abs() ** 2).sum()


def our_loss(x, m, quality):
    """The same on logits, for one class."""
    logits = product_logits(x, m, root=2.0)
    return quality_focal_loss(
        logits, torch.zeros_like(logits[..., 0], dtype=torch.int64), quality[..., 0]
    ).sum()


@pytest.mark.parametrize("logit, safe", [(-4.0, True), (-60.0, False), (-200.0, False)])
def test_logits_that_break_the_published_loss(logit, safe):
    gradients = []
    for loss in (published_loss, our_loss):
        x, m = (torch.full((2, 1), logit, requires_grad=True) for _ in range(2))
        loss(x, m, torch.full((2, 1), 0.7)).backward()
        gradients.append(x.grad)
    published, ours = gradients
    assert published.isfinite().all() == safe
    assert ours.isfinite().all() and (ours < 0).all()  # still upwards, to the quality
    if safe:
        torch.testing.assert_close(ours, published, rtol=1e-4, atol=1e-6)


def test_a_probability_of_half_precision_breaks_the_published_loss():
    """Already logits that a training meets: the product of two sigmoids is 0 below 6e-8."""
    x, m = (torch.full((2, 1), -10.0, dtype=torch.float16, requires_grad=True) for _ in range(2))
    published_loss(x, m, torch.full((2, 1), 0.7, dtype=torch.float16)).backward()
    assert not x.grad.isfinite().all()
    x, m = (t.detach().requires_grad_() for t in (x, m))
    our_loss(x, m, torch.full((2, 1), 0.7)).backward()
    assert x.grad.isfinite().all() and m.grad.isfinite().all()


@pytest.mark.parametrize("largest, safe", [(8.0, True), (math.inf, False)])
def test_exponents_that_break_the_published_decoding(largest, safe):
    x = torch.tensor([[100.0, 60.0, 3.0, 9.0]], requires_grad=True)
    rule = ScaledExp(largest=largest) if safe else (lambda x, scale: scale * x.exp())
    distance = rule(x, torch.tensor(1.0))
    box = torch.cat([5 - distance[:, :2], 5 + distance[:, 2:]], dim=1)
    loss = giou_loss(box, torch.tensor([[4.0, 4.0, 6.0, 6.0]]))
    loss.sum().backward()
    assert (loss.isfinite().all() and x.grad.isfinite().all()) == safe


@pytest.mark.parametrize("scale", [-2.0, 0.0, 1.0])
def test_distances_are_never_negative(scale):
    """A scalar that a high rate has carried below 0 would turn all boxes inside out."""
    scale = torch.tensor(scale, requires_grad=True)
    distance = ScaledExp()(torch.tensor([-3.0, 0.0, 2.0]), scale)
    distance.sum().backward()
    assert (distance >= 0).all() and scale.grad.isfinite()


def test_a_planted_nan_is_reported_with_its_image(tmp_path):
    """It comes to light in the loss of a batch of two, and no weight has changed."""
    image = torch.rand(3, 64, 96) * 255
    image[1, 7, 9] = math.nan
    instances = Instances((64, 96), gt_boxes=Boxes(torch.tensor([[8.0, 8, 40, 40]])))
    instances.gt_classes = torch.zeros(1, dtype=torch.int64)
    broken = {"image": image, "instances": instances, "file_name": "images/planted.jpg", "image_id": 77}
    (whole,) = HostileBatches([ordinary_boxes], images=1).images
    for leaf in (ANCHOR_FREE, "baselines/gfl_r50_fpn_1x"):
        model = narrow_model(leaf, switch=0 if leaf == ANCHOR_FREE else None)
        before = [p.detach().clone() for p in model.parameters()]
        with pytest.raises(
            NonFiniteLossError, match=r"loss_cls.*not finite at iteration 0.*planted.jpg \(id 77\)"
        ):
            train(model, [[whole, broken]], tmp_path, steps=1, dtype="bf16", rate=RATE)
        assert all(map(torch.equal, before, model.parameters()))
