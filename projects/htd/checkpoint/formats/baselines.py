"""Key maps of the plain two-stage detectors of MMDetection 2 and 3, and of Faster R-CNN of version 1."""

from __future__ import annotations

from htd.checkpoint.formats.base import Format
from htd.checkpoint.formats.class_order import background_last, without_background_box
from htd.checkpoint.formats.openmmlab import (
    CASCADE_RULES,
    IGNORED,
    STAGED_MASK_RULES,
    TWO_STAGE_RULES,
    box_head_rules,
    mask_head_rules,
)
from htd.layers import ContinuousBoxes, InclusiveBoxes

_SINGLE_STAGE_RULES = box_head_rules(r"roi_head\.bbox_head", "roi_heads.stages.0.head")

CASCADE_MASK_RCNN = Format(
    name="cascade_mask_rcnn",
    title="Cascade Mask R-CNN",
    marks=(r"^roi_head\.mask_head\.\d+\.",),
    model_marks=(r"^roi_heads\.mask_branch\.heads\.1\.",),
    configs=(
        "configs/baselines/cascade_mask_rcnn_r50_fpn_1x.py",
        "configs/baselines/cascade_mask_rcnn_r50_fpn_20e.py",
    ),
    rules=(*TWO_STAGE_RULES, *CASCADE_RULES, *STAGED_MASK_RULES),
    ignored=IGNORED,
    convention=ContinuousBoxes,
)

MASK_RCNN = Format(
    name="mask_rcnn",
    title="Mask R-CNN",
    marks=(r"^roi_head\.mask_head\.",),
    model_marks=(r"^roi_heads\.mask_branch\.heads\.0\.",),
    configs=("configs/baselines/mask_rcnn_r50_fpn_1x.py",),
    rules=(
        *TWO_STAGE_RULES,
        *_SINGLE_STAGE_RULES,
        *mask_head_rules(r"roi_head\.mask_head", "roi_heads.mask_branch.heads.0"),
    ),
    ignored=IGNORED,
    convention=ContinuousBoxes,
)

CASCADE_RCNN = Format(
    name="cascade_rcnn",
    title="Cascade R-CNN",
    marks=(r"^roi_head\.bbox_head\.\d+\.",),
    model_marks=(r"^roi_heads\.stages\.1\.head\.fcs\.",),
    configs=(
        "configs/baselines/cascade_rcnn_r50_fpn_1x.py",
        "configs/baselines/cascade_rcnn_r50_fpn_20e.py",
    ),
    rules=(*TWO_STAGE_RULES, *CASCADE_RULES),
    ignored=IGNORED,
    convention=ContinuousBoxes,
)

FASTER_RCNN = Format(
    name="faster_rcnn",
    title="Faster R-CNN",
    marks=(r"^roi_head\.bbox_head\.",),
    model_marks=(r"^roi_heads\.stages\.0\.head\.fcs\.",),
    configs=("configs/baselines/faster_rcnn_r50_fpn_1x.py",),
    rules=(*TWO_STAGE_RULES, *_SINGLE_STAGE_RULES),
    ignored=IGNORED,
    convention=ContinuousBoxes,
)

FASTER_RCNN_1 = Format(
    name="faster_rcnn_mmdetection1",
    title="Faster R-CNN of MMDetection 1",
    marks=(r"^bbox_head\.shared_fcs\.",),
    model_marks=FASTER_RCNN.model_marks,
    configs=("configs/baselines/faster_rcnn_r50_fpn_openimages.py",),
    rules=(
        *TWO_STAGE_RULES,
        *box_head_rules(
            "bbox_head",
            "roi_heads.stages.0.head",
            {"fc_cls": background_last, "fc_reg": without_background_box},
        ),
    ),
    ignored=IGNORED,
    convention=InclusiveBoxes,
)

BODY = Format(
    name="body",
    title="backbone, neck and RPN",
    marks=(r"^(backbone|neck|rpn_head)\.",),
    model_marks=("^$",),
    configs=(),
    rules=TWO_STAGE_RULES,
    ignored=IGNORED,
    convention=None,
)
