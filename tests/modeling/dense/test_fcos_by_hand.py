"""FCOS's points, losses and detections in numbers, with the parts of its config."""

import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from torch import nn

from htd.modeling.dense import DensePredictions, Priors
from tests.configs.reduced import reduced_model
from tests.modeling.dense.reference import decoded
from tests.recorded import close

FCOS = "configs/baselines/fcos_r50_fpn_1x.py"
# Cells of p3 to p7.
SHAPES = [(2, 2), (1, 1), (1, 1), (1, 1), (1, 1)]


@pytest.fixture
def model():
    """FCOS of four classes without its backbone."""
    config = reduced_model(FCOS)
    config.backbone = None
    return instantiate(config)


def test_points_are_the_middles_of_cells(model):
    priors = model.priors([torch.zeros(1, 16, h, w) for h, w in ((3, 4), (2, 2), (1, 1), (1, 1), (1, 1))])
    assert priors.centers[:5].tolist() == [[4, 4], [12, 4], [20, 4], [28, 4], [4, 12]]
    assert priors.centers[12:].tolist() == [
        *([8, 8], [24, 8], [8, 24], [24, 24]),
        *([16, 16], [32, 32], [64, 64]),
    ]


def test_losses(model):
    """One object of 20 x 40 pixels, which the point (12, 20) alone has in its range.

    Distances of the point to the sides (2, 2, 22, 42): l = 10, t = 18, r = 10, b = 22, so its
    centerness is sqrt(10/10 * 18/22). All predictions are zero: probability 1/2 for every class and for
    the centerness, and distances of exp(0) = 1 pixel, which have an IoU of 4 / 800.
    """
    for name, parameter in model.head.named_parameters():
        nn.init.constant_(parameter, "scales" in name)
    cells = [torch.zeros(1, 16, 1, 2)]
    priors = Priors(torch.tensor([[8.0, 16, 16, 24], [24, 24, 32, 32]]), [(1, 2)], [8])
    predictions = model.head(cells)
    model.criterion.assigner.ranges = ((-1, 64),)
    truth = Instances(
        (32, 32), gt_boxes=Boxes(torch.tensor([[2.0, 2, 22, 42]])), gt_classes=torch.tensor([3])
    )
    losses = model.criterion(priors, predictions, model.decoder(predictions.regression, priors), [truth])
    central, half = (18 / 22) ** 0.5, torch.tensor(0.5)
    # Seven of the eight (point, class) pairs are background; 1 positive and 1 image divide.
    one = -half.log() * 0.25
    assert losses["loss_cls"].item() == pytest.approx((7 * 0.75 * one + 0.25 * one).item() / 2, rel=1e-5)
    # The weight of the only positive divides out.
    assert losses["loss_box_reg"].item() == pytest.approx(-torch.tensor(4 / 800).log().item(), rel=1e-5)
    expected = nn.functional.binary_cross_entropy(half, torch.tensor(central))
    assert losses["loss_centerness"].item() == pytest.approx(expected.item(), rel=1e-5)


# Probabilities of classes, centerness, distances of the sides in pixels, of the points of SHAPES in order.
PREDICTED = [
    # At p3, where two points are to be kept: by score and centerness, so not the first.
    ({0: 0.9}, 0.1, (1, 1, 1, 1)),
    ({0: 0.5, 2: 0.2}, 0.8, (10, 2, 10, 12)),  # (12, 4)
    ({0: 0.06}, 0.9, (1, 1, 1, 1)),
    ({0: 0.3}, 0.9, (1, 1, 1, 1)),  # (12, 12)
    # (8, 8): the same box as that of (12, 4), with a better class, yet a worse product.
    ({0: 0.9}, 0.4, (6, 6, 14, 8)),
    # (16, 16): above the threshold of 0.05 by its class, though not by the product.
    ({1: 0.06}, 0.1, (1, 1, 1, 1)),
    # Below it by its class.
    ({1: 0.04}, 0.999, (9, 9, 9, 9)),
    # (64, 64): beyond the image of 80 x 100 pixels.
    ({3: 0.5}, 0.5, (4, 4, 200, 200)),
]
# Class, score, box in the frame of the image's double size.
DETECTED = [
    (0, 0.40, (4, 4, 44, 32)),
    (0, 0.27, (22, 22, 26, 26)),
    (3, 0.25, (120, 120, 200, 160)),
    (2, 0.16, (4, 4, 44, 32)),
    (1, 0.006, (30, 30, 34, 34)),
]


def test_detections(model):
    scores = torch.full((len(PREDICTED), 4), 0.01)
    for row, (classes, _, _) in enumerate(PREDICTED):
        for number, score in classes.items():
            scores[row, number] = score
    _, centerness, distances = zip(*PREDICTED, strict=True)
    predictions = DensePredictions(
        logits=scores.logit()[None],
        regression=torch.tensor([distances], dtype=torch.float32),
        centerness=torch.tensor([centerness]).logit(),
    )
    model.postprocessing.pre_nms.topk = 2
    maps = [torch.zeros(1, 16, *shape) for shape in SHAPES]
    predicted = decoded(model, maps, predictions)
    (candidates,) = model.postprocessing.pre_nms_boxes(*predicted, [(80, 100)])
    found = model.postprocessing.select(candidates, (160, 200))
    classes, scores, boxes = zip(*DETECTED, strict=True)
    assert found.pred_classes.tolist() == list(classes)
    assert found.scores.tolist() == pytest.approx(scores, rel=1e-5)
    close(found.pred_boxes.tensor, torch.tensor(boxes, dtype=torch.float32), atol=1e-4)
