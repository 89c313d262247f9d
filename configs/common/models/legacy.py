"""The conventions of the older published detectors, part by part; the background comes last all the same."""

from detectron2.config import LazyCall as L

from htd.layers import InclusiveBoxes, RoundedRegions
from htd.modeling.cascade import LegacyMaskTargets, LegacyRoIAlignPooler, legacy_paste
from htd.modeling.rpn import RoundedAnchorGenerator


def legacy_pooler(output_size):
    """RoIAlign without half-pixel shift, 2x2 samples a bin."""
    return L(LegacyRoIAlignPooler)(output_size=output_size, sampling_ratio=2)


def use_inclusive_boxes(model):
    """Let boxes, in place, name their first and last pixels, and anchors, too."""
    rpn = model.proposal_generator
    rpn.anchor_generator = L(RoundedAnchorGenerator)(
        sizes=rpn.anchor_generator.sizes,
        aspect_ratios=rpn.anchor_generator.aspect_ratios,
        strides=rpn.anchor_generator.strides,
    )
    rpn.proposal_rule.min_box_size = -1.0
    model.box_convention = L(InclusiveBoxes)()


def use_legacy_pooling(model):
    """Pool RoI features, in place, as the older detectors do; with TSD's heads the displaced ones, too."""
    for stage in model.roi_heads.stages:
        stage.head.features = legacy_pooler(output_size=7)
        for tower in ("classification", "regression"):
            if tower in stage.head:
                stage.head[tower].pooler.regions = L(RoundedRegions)()


def use_legacy_masks(model):
    """Cut and paste masks, in place, at whole pixels."""
    model.roi_heads.mask_branch.update(
        features=legacy_pooler(output_size=14),
        targets=L(LegacyMaskTargets)(),
        paste_masks=legacy_paste,
    )
