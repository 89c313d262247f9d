"""Predictors: rules for the numbers of boxes, and the quality that is read from distributions, in numbers."""

from math import e, exp, inf

import pytest
import torch
from torch import nn

from htd.modeling.dense import ExpOfScaled, QualityPredictors, Scaled, ScaledExp, TaskFeatures, Unscaled
from htd.modeling.dense.predictors import bounded_exp
from tests.recorded import close

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


@pytest.mark.parametrize("rule", [ExpOfScaled(), ScaledExp()])
@pytest.mark.parametrize("x", [1e4, -1e4])
def test_extreme_predictions_stay_finite(rule, x):
    x, scale = torch.tensor(x, requires_grad=True), torch.tensor(1.0, requires_grad=True)
    value = rule(x, scale)
    value.backward()
    for found in (value, x.grad, scale.grad):
        assert 0 <= abs(found.item()) < inf
    assert x.exp().item() in (0, inf)


CHANNELS, CLASSES = 6, 3
# Probabilities of four bins of each side of one cell, and the two greatest with their mean.
SIDES = [[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.05, 0.15], [0.25, 0.25, 0.25, 0.25], [0.01, 0.01, 0.97, 0.01]]
STATISTICS = [0.4, 0.3, 0.35, 0.7, 0.15, 0.425, 0.25, 0.25, 0.25, 0.97, 0.01, 0.49]


def predictors(**changed):
    torch.manual_seed(0)
    given = {"channels": CHANNELS, "num_levels": 2, "box_dim": 16, "topk": 2, "hidden": 5}
    return QualityPredictors(num_classes=CLASSES, box_rule=Scaled(), **(given | changed))


def features(size=(4, 3), dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    maps = torch.randn(2, 2, CHANNELS, *size, generator=generator)
    return TaskFeatures(*(x.to(dtype).requires_grad_() for x in maps))


@pytest.mark.parametrize("topk", [2, 4])
def test_statistics_by_hand(topk):
    """A constant that is added to the logits of a side changes nothing; all bins may be read."""
    logits = torch.tensor(SIDES).log() + torch.tensor([[0.0], [5.0], [-7.0], [100.0]])
    layer, read = predictors(topk=topk), []
    layer.quality.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0]))
    with torch.no_grad():
        layer.bbox_pred.weight.zero_()
        layer.bbox_pred.bias.copy_(logits.flatten())
        layer(features((1, 1)), 0)
    statistics = read[0][0].flatten().tolist()
    if topk == 2:
        assert statistics == pytest.approx(STATISTICS, rel=1e-4)
    else:
        wanted = [[*sorted(side, reverse=True), 0.25] for side in SIDES]
        assert statistics == pytest.approx(sum(wanted, []), rel=1e-4)


def test_quality_by_hand():
    """Ten times the mean of the upper side's two greatest, through a ReLU that closes for the other unit."""
    layer = predictors(hidden=2)
    first, _, last = layer.quality
    with torch.no_grad():
        for parameter in layer.quality.parameters():
            parameter.zero_()
        first.weight[0, 5], first.weight[1, 5] = 1, -1
        last.weight.view(-1).copy_(torch.tensor([10.0, 1e6]))
        last.bias.fill_(-1.0)
        layer.bbox_pred.weight.zero_()
        layer.bbox_pred.bias.copy_(torch.tensor(SIDES).log().flatten())
        layer.cls_score.weight.zero_()
        layer.cls_score.bias.copy_(torch.tensor([-1.0, 0.0, 2.0]))
        logits, boxes, centerness = layer(features((1, 1)), 0)
    assert centerness is None
    close(boxes[0].flatten(), torch.tensor(SIDES).log().flatten(), 1e-6)
    quality = torch.tensor(10 * STATISTICS[5] - 1).sigmoid()
    close(logits[0].flatten().sigmoid(), torch.tensor([-1.0, 0.0, 2.0]).sigmoid() * quality, 1e-6)


def test_scores_are_products():
    layer, given = predictors(extra_classes=1), features()
    nn.init.normal_(layer.quality[2].weight)
    with torch.no_grad():
        logits, boxes, _ = layer(given, 1)
        top = boxes.unflatten(1, (4, 4)).softmax(2).topk(2, 2).values
        statistics = torch.cat([top, top.mean(2, keepdim=True)], 2).flatten(1, 2)
        quality = layer.quality(statistics).sigmoid()
        classes = layer.cls_score(given.classification).sigmoid()
    assert logits.shape == (2, CLASSES + 1, 4, 3) and boxes.shape == (2, 16, 4, 3)
    close(logits.sigmoid(), quality * classes, 1e-6)


def test_gradients_numerically():
    layer = predictors().double()
    nn.init.normal_(layer.quality[0].weight)
    generator = torch.Generator().manual_seed(2)
    maps = torch.randn(2, 1, CHANNELS, 2, 2, generator=generator, dtype=torch.float64).requires_grad_()

    def scores(maps):
        return layer(TaskFeatures(*maps), 0)[0]

    assert torch.autograd.gradcheck(scores, (maps,))


def test_boxes_and_quality_in_full_precision_under_autocast():
    layer, given = predictors(), features(dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        logits, boxes, _ = layer(given, 0)
    assert logits.dtype == boxes.dtype == torch.float32
    full = TaskFeatures(given.classification.float(), given.regression.float())
    with torch.no_grad():
        wanted, wanted_boxes, _ = layer(full, 0)
    close(boxes, wanted_boxes, 1e-6)
    close(logits, wanted, 0.05)
