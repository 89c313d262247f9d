"""RetinaNet beside Detectron2's own, where its rules are those of the published code."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch.retinanet import RetinaNet, RetinaNetHead
from detectron2.structures import Boxes
from detectron2.utils.events import EventStorage
from torch import nn

from tests.configs.reduced import build, example

RETINANET = "configs/baselines/retinanet_r50_fpn_1x.py"


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
