"""What becomes of a box predictor's output, in numbers; and the exponential that cannot overflow."""

from math import e, exp, inf

import pytest
import torch

from htd.modeling.dense import ExpOfScaled, Scaled, ScaledExp, Unscaled
from htd.modeling.dense.predictors import bounded_exp

X = torch.tensor([[[[-2.0, 0.0, 1.0, 3.0]]]])
BOUNDS = [2.0, 8.0]


@pytest.mark.parametrize(
    "rule, scale, wanted",
    [
        (Unscaled(), None, [-2, 0, 1, 3]),
        (Scaled(), 0.5, [-1, 0, 0.5, 1.5]),
        (Scaled(), -0.5, [1, 0, -0.5, -1.5]),
        (ExpOfScaled(), 0.5, [1 / e, 1, exp(0.5), exp(1.5)]),
        (ExpOfScaled(), -0.5, [e, 1, exp(-0.5), exp(-1.5)]),
        (ScaledExp(), 0.5, [0.5 / e**2, 0.5, 0.5 * e, 0.5 * e**3]),
        # Only the size of the scale counts.
        (ScaledExp(), -0.5, [0.5 / e**2, 0.5, 0.5 * e, 0.5 * e**3]),
    ],
)
def test_rules(rule, scale, wanted):
    found = rule(X, None if scale is None else torch.tensor(scale))
    assert found.shape == X.shape
    assert found.flatten().tolist() == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(
    "rule, at_scale_half, at_scale_two",
    [
        # Beyond 2 the tangent: e^2 (1 + x - 2), where x is 1.5 and 6, or 3 at either scale.
        (ExpOfScaled(largest=2.0), exp(1.5), 5 * e**2),
        (ScaledExp(largest=2.0), 0.5 * 2 * e**2, 2 * 2 * e**2),
    ],
)
def test_the_bound_is_on_what_the_exponential_is_of(rule, at_scale_half, at_scale_two):
    for scale, wanted in ((0.5, at_scale_half), (2.0, at_scale_two)):
        assert rule(torch.tensor(3.0), torch.tensor(scale)).item() == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("rule", [Scaled, ExpOfScaled, ScaledExp])
def test_the_scale_is_learned(rule):
    x, scale = torch.tensor([1.5]), torch.tensor(0.5, requires_grad=True)
    rule()(x, scale).sum().backward()
    wanted = {Scaled: 1.5, ExpOfScaled: 1.5 * exp(0.75), ScaledExp: exp(1.5)}
    assert scale.grad.item() == pytest.approx(wanted[rule], rel=1e-6)


def value_and_slope(x, largest):
    x = torch.tensor(x, requires_grad=True)
    value = bounded_exp(x, largest)
    value.backward()
    return value.item(), x.grad.item()


@pytest.mark.parametrize("largest", BOUNDS)
def test_exponential_up_to_the_bound(largest):
    for x in (-100.0, -1.0, 0.0, largest - 1e-3):
        assert value_and_slope(x, largest) == pytest.approx((exp(x), exp(x)), rel=1e-5)


@pytest.mark.parametrize("largest", BOUNDS)
def test_tangent_beyond_the_bound(largest):
    for beyond in (1e-3, 1.0, 1e4):
        value, slope = value_and_slope(largest + beyond, largest)
        assert value == pytest.approx(exp(largest) * (1 + beyond), rel=1e-5)
        assert slope == pytest.approx(exp(largest), rel=1e-5)


@pytest.mark.parametrize("largest", BOUNDS)
def test_neither_value_nor_slope_jumps_at_the_bound(largest):
    below, at, above = (value_and_slope(largest + step, largest) for step in (-1e-4, 0.0, 1e-4))
    assert at == pytest.approx((exp(largest), exp(largest)), rel=1e-6)
    assert below == pytest.approx(at, rel=2e-4) and above == pytest.approx(at, rel=2e-4)
    assert below[0] < at[0] < above[0]


@pytest.mark.parametrize("rule", [ExpOfScaled(), ScaledExp()])
@pytest.mark.parametrize("x", [1e4, -1e4])
def test_extreme_predictions_stay_finite(rule, x):
    x, scale = torch.tensor(x, requires_grad=True), torch.tensor(1.0, requires_grad=True)
    value = rule(x, scale)
    value.backward()
    for found in (value, x.grad, scale.grad):
        assert 0 <= abs(found.item()) < inf
    assert x.exp().item() in (0, inf)
