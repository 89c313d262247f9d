"""TOOD, ResNet-50, FPN, anchor-free: T-Head, trained by ATSS first and by task alignment after."""

from detectron2.config import LazyCall as L

from htd.modeling.dense import (
    AssignedMetric,
    ATSSAssigner,
    Centerness,
    DenseCriterion,
    DistanceDecoder,
    FocalLoss,
    GIoULoss,
    PositiveCount,
    QualityFocalLoss,
    ScaledExp,
    WeightSum,
)
from htd.modeling.tood import (
    AlignedPredictors,
    InteractiveTowers,
    SampledBoxDecoder,
    TaskAlignedAssigner,
    TwoPhaseCriterion,
)

from ..schedules import coco_iterations
from .dense import best_pairs, dense_detector, pyramid, square_anchors, term


def box_term(weighting):
    """The box loss of both phases."""
    return term(
        "loss_box_reg",
        L(GIoULoss)(weighting=weighting),
        L(WeightSum)(weighting=weighting, least=1.0),
        weight=2.0,
    )


def task_aligned():
    """DenseCriterion by task alignment learning."""
    alignment = L(AssignedMetric)()
    return L(DenseCriterion)(
        assigner=L(TaskAlignedAssigner)(topk=13, alpha=1.0, beta=6.0),
        terms=[
            term(
                "loss_cls",
                L(QualityFocalLoss)(quality=alignment, beta=2.0),
                L(WeightSum)(weighting=alignment, least=1.0),
            ),
            box_term(alignment),
        ],
        pad_divisor=32,
    )


def aligned_head(box_rule):
    """T-Head: towers, and predictors with a rule for the numbers that boxes are decoded from."""
    towers = L(InteractiveTowers)(
        channels=256, num_layers=6, attention_dim=32, num_groups=32, num_deformable=0, offset_groups=4
    )
    predictors = L(AlignedPredictors)(
        num_classes="${...num_classes}",
        channels="${..towers.channels}",
        num_levels=5,
        box_rule=box_rule,
        num_layers="${..towers.num_layers}",
        hidden=64,
        prior_probability=0.01,
    )
    return {"towers": towers, "predictors": predictors}


model = dense_detector(
    backbone=pyramid(),
    **aligned_head(L(ScaledExp)(largest=8.0)),
    anchor_generator=square_anchors(),
    decoder=L(SampledBoxDecoder)(decoder=L(DistanceDecoder)(in_cells=True), repair=True),
    criterion=L(TwoPhaseCriterion)(
        initial=L(DenseCriterion)(
            assigner=L(ATSSAssigner)(topk=9),
            terms=[
                term(
                    "loss_cls",
                    L(FocalLoss)(alpha=0.25, gamma=2.0),
                    L(PositiveCount)(least_each_image=0, extra_each_image=0, least=1.0),
                ),
                box_term(L(Centerness)()),
            ],
            pad_divisor=32,
        ),
        aligned=task_aligned(),
        # After epoch 4, of 12 as of 24, with 16 images a step.
        switch_iter=coco_iterations(epochs=4, batch_size=16),
        switch_epochs=None,
    ),
    pre_nms=best_pairs(),
    clip=False,
    min_box_size=0.0,
)
