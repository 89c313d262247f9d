"""ATSS, ResNet-50, FPN: one square anchor a cell, assigned by the statistics of its neighbors."""

from detectron2.config import LazyCall as L

from htd.modeling.dense import (
    ATSSAssigner,
    Centerness,
    CenternessLoss,
    DeltaDecoder,
    DenseCriterion,
    FocalLoss,
    GIoULoss,
    PositiveCount,
    Scaled,
    WeightSum,
)

from .dense import best_pairs, box_coding, dense_detector, pyramid, square_anchors, term, twin_head

positives = L(PositiveCount)(least_each_image=1, extra_each_image=0, least=1.0)
centrality = L(Centerness)()

model = dense_detector(
    backbone=pyramid(),
    **twin_head(box_rule=L(Scaled)(), centerness_from="regression"),
    anchor_generator=square_anchors(),
    decoder=L(DeltaDecoder)(transform=box_coding((0.1, 0.1, 0.2, 0.2))),
    criterion=L(DenseCriterion)(
        assigner=L(ATSSAssigner)(topk=9),
        terms=[
            term("loss_cls", L(FocalLoss)(alpha=0.25, gamma=2.0), positives),
            term(
                "loss_box_reg",
                L(GIoULoss)(weighting=centrality),
                L(WeightSum)(weighting=centrality, least=1.0),
                weight=2.0,
            ),
            term("loss_centerness", L(CenternessLoss)(target=centrality), positives),
        ],
        pad_divisor=32,
    ),
    pre_nms=best_pairs(),
    min_box_size=0.0,
)
