"""Building blocks of the dense models: functions that leave the differences to the model's file.

``num_classes`` stands once, in ``model``; every part refers to it.
"""

import copy
import math

from detectron2.config import LazyCall as L
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator

from htd.layers import ClampedBox2BoxTransform, HardNMS
from htd.modeling.backbones import ExtraLevels
from htd.modeling.dense import (
    DenseHead,
    LocationTopK,
    LossTerm,
    OneStageDetector,
    PairTopK,
    Predictors,
    RescaleFirst,
    TwinTowers,
)

from .resnet_fpn import backbone

STRIDES = [8, 16, 32, 64, 128]


def pyramid(*, in_feature="p5", relu=False):
    """ResNet-50 and FPN with levels p3 to p7, of which p6 and p7 are made from ``in_feature``."""
    body = copy.deepcopy(backbone)
    body.bottom_up.out_features = ["res3", "res4", "res5"]
    channels = "${..out_channels}" if in_feature.startswith("p") else 2048
    body.top_block = L(ExtraLevels)(
        in_channels=channels,
        out_channels="${..out_channels}",
        in_feature=in_feature,
        relu=relu,
        norm="${..norm}",
    )
    return body


def square_anchors():
    """One anchor a cell, eight cells wide, around the cell's upper left corner (ATSS, GFL, TOOD)."""
    return L(DefaultAnchorGenerator)(
        sizes=[[8 * stride] for stride in STRIDES], aspect_ratios=[1.0], strides=STRIDES, offset=0.0
    )


def points():
    """One point a cell, in its middle (FCOS), as the middle of an anchor of the cell's size."""
    return L(DefaultAnchorGenerator)(
        sizes=[[stride] for stride in STRIDES], aspect_ratios=[1.0], strides=STRIDES, offset=0.5
    )


def box_coding(stds):
    """Deltas divided by standard deviations, with the published limits of how far sizes may change."""
    return L(ClampedBox2BoxTransform)(weights=[1 / s for s in stds], scale_clamp=math.log(1000 / 16))


def twin_head(*, box_rule, centerness_from=None, num_anchors=1, num_levels=5, num_groups=32):
    """Two towers of four convolutions, and predictors with a rule for the numbers of boxes."""
    predictors = L(Predictors)(
        num_classes="${...num_classes}",
        channels="${..towers.channels}",
        num_anchors=num_anchors,
        box_dim=4,
        num_levels=num_levels,
        box_rule=box_rule,
        centerness_from=centerness_from,
        prior_probability=0.01,
        extra_classes=0,
    )
    return {
        "towers": L(TwinTowers)(channels=256, num_convs=4, num_groups=num_groups, deformable_last=False),
        "predictors": predictors,
    }


def term(name, loss, normalizer, weight=1.0):
    """One loss."""
    return L(LossTerm)(name=name, loss=loss, normalizer=normalizer, weight=weight)


def best_pairs():
    """The best 1000 pairs of a prior and a class of each level that score above 0.05."""
    return L(PairTopK)(score_threshold=0.05, topk=1000)


def best_locations(ranking=None):
    """The best 1000 priors of each level, and their classes that score above 0.05."""
    return L(LocationTopK)(score_threshold=0.05, topk=1000, ranking=ranking)


def dense_detector(
    *,
    backbone,
    towers,
    predictors,
    anchor_generator,
    decoder,
    criterion,
    pre_nms,
    nms_threshold=0.6,
    clip=True,
    min_box_size=None,
):
    """The given parts, with the published pre- and post-processing."""
    return L(OneStageDetector)(
        num_classes=80,
        backbone=backbone,
        head_in_features=["p3", "p4", "p5", "p6", "p7"],
        head=L(DenseHead)(towers=towers, predictors=predictors),
        anchor_generator=anchor_generator,
        decoder=decoder,
        criterion=criterion,
        postprocessing=L(RescaleFirst)(
            pre_nms=pre_nms,
            nms=L(HardNMS)(iou_threshold=nms_threshold),
            max_detections=100,
            num_classes="${..num_classes}",
            clip=clip,
            min_box_size=min_box_size,
        ),
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
        input_format="RGB",
    )
