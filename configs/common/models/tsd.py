"""TSD's head as a building block: put it into any stage of a two-stage model."""

from detectron2.config import LazyCall as L

from htd.layers import AlignedRegions
from htd.modeling.cascade import SharedFCHead
from htd.modeling.tsd import (
    BoxShift,
    ClassificationMargin,
    LocalizationMargin,
    NoShift,
    OffsetPooler,
    PointShift,
    ShiftedClassification,
    ShiftedRegression,
    TSDHead,
    TSDLosses,
    kaiming_weight,
)


def offset_pooler():
    """Displaced 7x7 bins of 4x4 samples each."""
    return L(OffsetPooler)(regions=L(AlignedRegions)(), output_size=7, samples=4)


def tsd_head(*, features, displaced=None, class_agnostic=False, background_box=False):
    """TSD's head on 7x7 RoI features; ``displaced`` pools what the towers see."""
    displaced = displaced or offset_pooler()
    boxes = dict(class_agnostic=class_agnostic, background_box=background_box)
    tower = dict(num_classes="${...num_classes}", channels=256, resolution=7, fc_dims=[1024, 1024])
    return L(TSDHead)(
        features=features,
        classification=L(ShiftedClassification)(
            shift=L(PointShift)(in_features="${...trunk_dim}", resolution=7), pooler=displaced, **tower
        ),
        regression=L(ShiftedRegression)(
            shift=L(BoxShift)(in_features="${...trunk_dim}"), pooler=displaced, **tower, **boxes
        ),
        sibling=L(SharedFCHead)(features=None, init=kaiming_weight, **tower, **boxes),
        channels=256,
        resolution=7,
        trunk_dim=256,
        shift_factor=0.1,
    )


def use_tsd(stage, head):
    """Give a stage, in place, TSD's head and its losses."""
    # As published; the paper says 0.2.
    constraints = [L(ClassificationMargin)(margin=0.3), L(LocalizationMargin)(margin=0.3)]
    stage.head = head
    stage.losses = L(TSDLosses)(box_losses=stage.losses, constraints=constraints)


def leave_out_sibling(stage):
    """Train the towers of a TSD stage alone, which leaves nothing to compare them with (ablation)."""
    stage.head.sibling = None
    stage.losses.constraints = []


def leave_out_shifts(stage, *towers):
    """Let ``"classification"``, ``"regression"`` or both see the plain RoI features (ablation).

    Both, and no sibling: the paper's "decoupled head".
    """
    for tower in towers:
        stage.head[tower].shift = L(NoShift)()
