"""RetinaNet, ResNet-50, FPN, in MMDetection's form: P6 from C5, L1, positives of the batch as the divisor."""

from detectron2.config import LazyCall as L
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator

from htd.modeling.dense import (
    DeltaDecoder,
    DeltaLoss,
    DenseCriterion,
    FocalLoss,
    IoUAssigner,
    PositiveCount,
    Unscaled,
)

from .dense import STRIDES, best_locations, box_coding, dense_detector, pyramid, term, twin_head

positives = L(PositiveCount)(least_each_image=1, extra_each_image=0, least=1.0)

model = dense_detector(
    backbone=pyramid(in_feature="res5"),
    **twin_head(box_rule=L(Unscaled)(), num_anchors=9, num_levels=0, num_groups=None),
    anchor_generator=L(DefaultAnchorGenerator)(
        # Three scales an octave, each in three forms.
        sizes=[[4 * stride * 2 ** (i / 3) for i in range(3)] for stride in STRIDES],
        aspect_ratios=[0.5, 1.0, 2.0],
        strides=STRIDES,
        offset=0.0,
    ),
    decoder=L(DeltaDecoder)(transform=box_coding((1.0, 1.0, 1.0, 1.0))),
    criterion=L(DenseCriterion)(
        assigner=L(IoUAssigner)(positive_iou=0.5, negative_iou=0.4, low_quality_iou=0.0),
        terms=[
            term("loss_cls", L(FocalLoss)(alpha=0.25, gamma=2.0), positives),
            term("loss_box_reg", L(DeltaLoss)(transform="${.....decoder.transform}", beta=0.0), positives),
        ],
        pad_divisor=32,
    ),
    pre_nms=best_locations(),
    nms_threshold=0.5,
)
