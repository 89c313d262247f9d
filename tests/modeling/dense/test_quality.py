"""The quality that is predicted from a box's distributions: statistics, scores, gradients, bad values."""

import pytest
import torch
from torch import nn

from htd.errors import UserError
from htd.modeling.dense import QualityPredictors, Scaled, TaskFeatures
from tests.recorded import close

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


def test_statistics_by_hand():
    """A constant that is added to the logits of a side changes nothing."""
    logits = torch.tensor(SIDES).log() + torch.tensor([[0.0], [5.0], [-7.0], [100.0]])
    found = predictors().statistics(logits.view(1, 16, 1, 1))
    assert found.shape == (1, 12, 1, 1)
    assert found.flatten().tolist() == pytest.approx(STATISTICS, rel=1e-4)


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
        quality = layer.quality(layer.statistics(boxes)).sigmoid()
        classes = layer.cls_score(given.classification).sigmoid()
    assert logits.shape == (2, CLASSES + 1, 4, 3) and boxes.shape == (2, 16, 4, 3)
    assert (layer.class_outputs, layer.extra_classes, layer.num_anchors) == (CLASSES + 1, 1, 1)
    close(logits.sigmoid(), quality * classes, 1e-6)


def test_the_loss_of_scores_reaches_the_boxes():
    """Through the distributions, also the level's scale; a loss of boxes does not reach the classes."""
    layer, given = predictors(), features()
    logits, boxes, _ = layer(given, 1)
    scale = layer.scales[1]
    reached = [layer.bbox_pred.weight, layer.bbox_pred.bias, scale, given.regression, given.classification]
    assert all(g.any() for g in torch.autograd.grad(logits.sum(), reached, retain_graph=True))
    unreached = [layer.cls_score.weight, *layer.quality.parameters(), given.classification]
    found = torch.autograd.grad(boxes.square().sum(), unreached, allow_unused=True)
    assert found == (None,) * len(unreached)


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


@pytest.mark.parametrize("bins", [-1e4, 1e4])
def test_extreme_boxes_leave_scores_and_gradients_finite(bins):
    layer, given = predictors(), features()
    nn.init.constant_(layer.bbox_pred.bias, bins)
    with torch.no_grad():
        layer.bbox_pred.bias[::4] *= -1
    logits, _, _ = layer(given, 0)
    assert logits.isfinite().all()
    found = torch.autograd.grad(logits.sum(), list(layer.parameters()), allow_unused=True)
    assert all(g is None or g.isfinite().all() for g in found)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"box_dim": 18}, "box_dim is 18, its topk 2: give four times the bins"),
        ({"box_dim": 12, "topk": 4}, "box_dim is 12, its topk 4: .* at least as many bins as are read"),
        ({"topk": 0}, "topk is 0: give a whole number of at least 1"),
        ({"topk": 1.5}, "topk is 1.5: give a whole number of at least 1"),
        ({"topk": None}, "topk is null: give a whole number of at least 1"),
        ({"extra_classes": -1}, "extra_classes is -1: give a whole number of at least 0"),
        ({"extra_classes": True}, "extra_classes is True: give a whole number of at least 0"),
        ({"hidden": 0}, "hidden is 0: give a whole number of at least 1"),
    ],
)
def test_bad_values(changed, words):
    with pytest.raises(UserError, match=f"model.head.predictors.{words}"):
        predictors(**changed)


def test_as_many_bins_as_are_read():
    layer = predictors(box_dim=8)
    assert layer.statistics(torch.zeros(1, 8, 1, 1)).flatten().tolist() == [0.5] * 12
