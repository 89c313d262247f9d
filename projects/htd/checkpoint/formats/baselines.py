"""Key maps of the plain two-stage detectors of MMDetection 2 and 3, with and without masks."""

from __future__ import annotations

from htd.checkpoint.formats.base import Format
from htd.checkpoint.formats.openmmlab import (
    CASCADE_RULES,
    IGNORED,
    STAGED_MASK_RULES,
    TWO_STAGE_RULES,
    box_head_rules,
    mask_head_rules,
)

_SINGLE_STAGE_RULES = box_head_rules(r"roi_head\.bbox_head", "roi_heads.stages.0.head")

CASCADE_MASK_RCNN = Format(
    name="cascade_mask_rcnn",
    title="Cascade Mask R-CNN",
    mark=r"^roi_head\.mask_head\.\d+\.",
    model_mark=r"^roi_heads\.mask_branch\.heads\.1\.",
    configs=(
        "configs/baselines/cascade_mask_rcnn_r50_fpn_1x.py",
        "configs/baselines/cascade_mask_rcnn_r50_fpn_20e.py",
    ),
    rules=(*TWO_STAGE_RULES, *CASCADE_RULES, *STAGED_MASK_RULES),
    ignored=IGNORED,
)

MASK_RCNN = Format(
    name="mask_rcnn",
    title="Mask R-CNN",
    mark=r"^roi_head\.mask_head\.",
    model_mark=r"^roi_heads\.mask_branch\.heads\.0\.",
    configs=("configs/baselines/mask_rcnn_r50_fpn_1x.py",),
    rules=(
        *TWO_STAGE_RULES,
        *_SINGLE_STAGE_RULES,
        *mask_head_rules(r"roi_head\.mask_head", "roi_heads.mask_branch.heads.0"),
    ),
    ignored=IGNORED,
)

CASCADE_RCNN = Format(
    name="cascade_rcnn",
    title="Cascade R-CNN",
    mark=r"^roi_head\.bbox_head\.\d+\.",
    model_mark=r"^roi_heads\.stages\.1\.head\.fcs\.",
    configs=(
        "configs/baselines/cascade_rcnn_r50_fpn_1x.py",
        "configs/baselines/cascade_rcnn_r50_fpn_20e.py",
    ),
    rules=(*TWO_STAGE_RULES, *CASCADE_RULES),
    ignored=IGNORED,
)

FASTER_RCNN = Format(
    name="faster_rcnn",
    title="Faster R-CNN",
    mark=r"^roi_head\.bbox_head\.",
    model_mark=r"^roi_heads\.stages\.0\.head\.fcs\.",
    configs=("configs/baselines/faster_rcnn_r50_fpn_1x.py",),
    rules=(*TWO_STAGE_RULES, *_SINGLE_STAGE_RULES),
    ignored=IGNORED,
)

BODY = Format(
    name="body",
    title="backbone, neck and RPN",
    mark=r"^(backbone|neck|rpn_head)\.",
    model_mark="^$",
    configs=(),
    rules=TWO_STAGE_RULES,
    ignored=IGNORED,
)
