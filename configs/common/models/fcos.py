"""FCOS, ResNet-50, FPN, in MMDetection's form: exponential distances in pixels, no center sampling."""

import math

from detectron2.config import LazyCall as L

from htd.modeling.dense import (
    BestClassTimesCenterness,
    Centerness,
    CenternessLoss,
    DenseCriterion,
    DistanceDecoder,
    ExpOfScaled,
    FCOSAssigner,
    FocalLoss,
    IoULoss,
    PositiveCount,
    WeightSum,
)

from .dense import best_locations, dense_detector, points, pyramid, term, twin_head

centrality = L(Centerness)()

model = dense_detector(
    backbone=pyramid(relu=True),
    **twin_head(box_rule=L(ExpOfScaled)(largest=12.0), centerness_from="classification"),
    anchor_generator=points(),
    decoder=L(DistanceDecoder)(in_cells=False),
    criterion=L(DenseCriterion)(
        assigner=L(FCOSAssigner)(ranges=[[-1, 64], [64, 128], [128, 256], [256, 512], [512, math.inf]]),
        terms=[
            term(
                "loss_cls",
                L(FocalLoss)(alpha=0.25, gamma=2.0),
                L(PositiveCount)(least_each_image=0, extra_each_image=1, least=1.0),
            ),
            term(
                "loss_box_reg",
                L(IoULoss)(weighting=centrality),
                L(WeightSum)(weighting=centrality, least=1e-6),
            ),
            term(
                "loss_centerness",
                L(CenternessLoss)(target=centrality),
                L(PositiveCount)(least_each_image=0, extra_each_image=0, least=1.0),
            ),
        ],
        pad_divisor=32,
    ),
    pre_nms=best_locations(ranking=L(BestClassTimesCenterness)()),
    nms_threshold=0.5,
)
