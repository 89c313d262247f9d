"""RetinaNet and FCOS beside Detectron2's own modules, where their rules are those of the published code."""

import pytest
import torch
from detectron2.config import instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch.retinanet import RetinaNet, RetinaNetHead
from detectron2.structures import Boxes
from detectron2.utils.events import EventStorage
from torch import nn

from tests.configs.reduced import build, example, reduced_model

RETINANET, FCOS = (f"configs/baselines/{name}_r50_fpn_1x.py" for name in ("retinanet", "fcos"))


def stock_head(head):
    """Detectron2's head with the weights of ours."""
    shapes = [ShapeSpec(channels=16, stride=s) for s in (8, 16, 32, 64, 128)]
    theirs = RetinaNetHead(input_shape=shapes, num_classes=4, num_anchors=9, conv_dims=[16] * 4)
    convs = [
        *(m for m in theirs.cls_subnet if isinstance(m, nn.Conv2d)),
        *(m for m in theirs.bbox_subnet if isinstance(m, nn.Conv2d)),
        theirs.cls_score,
        theirs.bbox_pred,
    ]
    ours = [
        *head.towers.classification,
        *head.towers.regression,
        head.predictors.cls_score,
        head.predictors.bbox_pred,
    ]
    for to, of in zip(convs, ours, strict=True):
        to.load_state_dict(of.state_dict())
    return theirs


@pytest.fixture(scope="module")
def retinanets():
    """Ours, and Detectron2's with the same weights and, from momentum 0, the present positives as divisor."""
    ours = build(RETINANET)
    # Far from its first values, so that nothing compared is nearly constant.
    for parameter in ours.head.parameters():
        nn.init.normal_(parameter, std=0.05)
    theirs = RetinaNet(
        backbone=ours.backbone,
        head=stock_head(ours.head),
        head_in_features=ours.head_in_features,
        anchor_generator=ours.anchor_generator,
        box2box_transform=Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0)),
        anchor_matcher=Matcher([0.4, 0.5], [0, -1, 1], allow_low_quality_matches=True),
        num_classes=4,
        focal_loss_alpha=0.25,
        focal_loss_gamma=2.0,
        smooth_l1_beta=0.0,
        box_reg_loss_type="smooth_l1",
        pixel_mean=ours.pixel_mean.flatten().tolist(),
        pixel_std=ours.pixel_std.flatten().tolist(),
    )
    theirs.loss_normalizer_momentum = 0.0  # read by the older version
    theirs._ema_update = lambda name, value, initial_value, momentum=0.0: value  # by the newer one
    return ours, theirs


def apart(height, width):
    """An input whose two objects have no anchor in common, so that nobody contests one."""
    item = example(2, size=(height, width))
    item["instances"].gt_boxes = Boxes(torch.tensor([[4.0, 6.0, 40.0, 38.0], [70.0, 66.0, 120.0, 122.0]]))
    return item


def test_retinanet_has_the_losses_and_the_gradients_of_detectron2(retinanets):
    inputs = [apart(128, 128)]
    found = []
    for model in retinanets:
        with EventStorage(0):
            losses = model.train()(inputs)
        names = ("cls_score.weight", "bbox_pred.bias")
        head = getattr(model.head, "predictors", model.head)
        parameters = [head.get_parameter(name) for name in names]
        found.append((losses, torch.autograd.grad(sum(losses.values()), parameters)))
    (ours, our_grads), (theirs, their_grads) = found
    assert ours.keys() == theirs.keys() and ours["loss_box_reg"] > 0.1
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value.to(ours[name].dtype), rtol=1e-5, atol=1e-6)
    for one, other in zip(our_grads, their_grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_retinanet_head_is_detectron2s(retinanets):
    ours, theirs = retinanets
    maps = [torch.randn(2, 16, side, side) for side in (16, 8, 4, 2, 1)]
    with torch.no_grad():
        predictions, (logits, deltas) = ours.head(maps), theirs.head(maps)
    # One after the other: anchors of a cell, cells of a row, rows of a level, levels.
    rows = [x.view(2, 9, -1, *x.shape[2:]).permute(0, 3, 4, 1, 2).flatten(1, 3) for x in logits]
    torch.testing.assert_close(predictions.logits, torch.cat(rows, dim=1))
    rows = [x.view(2, 9, -1, *x.shape[2:]).permute(0, 3, 4, 1, 2).flatten(1, 3) for x in deltas]
    torch.testing.assert_close(predictions.regression, torch.cat(rows, dim=1))


def test_points_of_fcos_are_the_middles_of_cells():
    model = instantiate(reduced_model(FCOS))
    priors = model.priors([torch.zeros(1, 16, h, w) for h, w in ((3, 4), (2, 2), (1, 1), (1, 1), (1, 1))])
    assert priors.centers[:5].tolist() == [[4, 4], [12, 4], [20, 4], [28, 4], [4, 12]]
    assert priors.centers[12:].tolist() == [
        *([8, 8], [24, 8], [8, 24], [24, 24]),
        *([16, 16], [32, 32], [64, 64]),
    ]


def test_losses_of_fcos_by_hand():
    """One object of 20 x 40 pixels, which the point (12, 20) alone has in its range.

    Distances of the point to the sides (2, 2, 22, 42): l = 10, t = 18, r = 10, b = 22, so its
    centerness is sqrt(10/10 * 18/22). All predictions are zero: probability 1/2 for every class and for
    the centerness, and distances of exp(0) = 1 pixel, which have an IoU of 4 / 800.
    """
    model = instantiate(reduced_model(FCOS)).train()
    model.head_in_features = ["p3"]
    model.anchor_generator.strides = [8]
    for parameter in model.head.parameters():
        nn.init.zeros_(parameter)
    nn.init.ones_(model.head.predictors.scales[0])
    item = example(1, size=(32, 32))
    item["instances"].gt_boxes = Boxes(torch.tensor([[2.0, 2.0, 22.0, 42.0]]))
    item["instances"].gt_classes = torch.tensor([3])
    priors = type(model.priors([torch.zeros(1, 16, 4, 4)] * 5)).of(
        [Boxes(torch.tensor([[8.0, 16.0, 16.0, 24.0], [24.0, 24.0, 32.0, 32.0]]))],
        [torch.zeros(1, 16, 1, 2)],
        [8],
    )
    predictions = model.head([torch.zeros(1, 16, 1, 2)])
    model.supervision.assigner.ranges = ((-1, 64),)
    losses = model.supervision(
        priors, predictions, model.decoder(predictions.regression, priors), [item["instances"]]
    )
    central, half = (18 / 22) ** 0.5, torch.tensor(0.5)
    # Seven of the eight (point, class) pairs are background; 1 positive and 1 image divide.
    one = -half.log() * 0.25
    assert losses["loss_cls"].item() == pytest.approx((7 * 0.75 * one + 0.25 * one).item() / 2, rel=1e-5)
    # The weight of the only positive divides out.
    assert losses["loss_box_reg"].item() == pytest.approx(-torch.tensor(4 / 800).log().item(), rel=1e-5)
    expected = nn.functional.binary_cross_entropy(half, torch.tensor(central))
    assert losses["loss_centerness"].item() == pytest.approx(expected.item(), rel=1e-5)
