"""RetinaNet, FCOS, ATSS and GFL on hostile data, and normalisers that are next to nothing."""

import math

import pytest
import torch

from htd.modeling.dense.criterion import clamp_normalizer
from tests.modeling.dense.hostile import RATE, HostileBatches, narrow_model, ordinary_boxes, train

# RetinaNet's towers have no norm; at ten times the rate it diverges, whatever the precision.
RATES = {"retinanet": RATE, "fcos": 10 * RATE, "atss": 10 * RATE, "gfl": 10 * RATE}
each_system = pytest.mark.parametrize("system", RATES)


def unharmed(system: str, dtype: str, steps: int, tmp_path) -> None:
    """Train for some steps, of which the first half is the warm-up, and check losses and gradients."""
    model = narrow_model(f"baselines/{system}_r50_fpn_1x")
    rate = RATES[system]
    seen = train(
        model, HostileBatches(), tmp_path, steps=steps, dtype=dtype, rate=rate, warmup_iters=steps // 2
    )
    assert len(seen.losses) == steps and all(map(math.isfinite, seen.losses)) and max(seen.losses) > 0.5
    assert not seen.wild
    if system != "retinanet":
        assert seen.skipped(steps) == []


@each_system
def test_hostile_data(system, tmp_path):
    unharmed(system, "fp16", 16, tmp_path)


@pytest.mark.slow
@each_system
def test_two_hundred_hostile_steps(system, tmp_path):
    unharmed(system, "fp16", 200, tmp_path)


@pytest.mark.parametrize("bias", [-40.0, -85.0, -1e4])
def test_scores_of_nothing(bias, tmp_path):
    """GFL divides by a sum of scores that has no lower limit."""
    model = narrow_model("baselines/gfl_r50_fpn_1x").train()
    torch.nn.init.constant_(model.head.predictors.cls_score.bias, bias)
    losses = model(next(iter(HostileBatches([ordinary_boxes]))))
    (2.0**24 * sum(losses.values())).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_a_normalizer_without_a_limit_divides_equally():
    """The mean of two losses weighs them by tiny scores; where these are nothing it is 0."""
    losses, weights = torch.tensor([1.0, 3.0], requires_grad=True), torch.tensor([1e-15, 3e-15])
    mean = (losses * weights).sum() / clamp_normalizer(weights.sum(), 0.0)
    assert mean.item() == pytest.approx(2.5)
    assert (
        float(clamp_normalizer(torch.tensor(1e-39), 0.0))
        == float(clamp_normalizer(torch.tensor(0.0), 0.0))
        == 1
    )
