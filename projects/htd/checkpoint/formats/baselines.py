"""Key maps of the plain two-stage detectors of MMDetection 2 and 3."""

from __future__ import annotations

from htd.checkpoint.formats.base import Format
from htd.checkpoint.formats.openmmlab import IGNORED, TWO_STAGE_RULES, box_head_rules

CASCADE_RCNN = Format(
    name="cascade_rcnn",
    title="Cascade R-CNN",
    mark=r"^roi_head\.bbox_head\.\d+\.",
    model_mark=r"^roi_heads\.stages\.1\.head\.fcs\.",
    configs="configs/baselines/cascade_rcnn_{backbone}_fpn{dcn}_*.py",
    rules=(
        *TWO_STAGE_RULES,
        *box_head_rules(r"roi_head\.bbox_head\.(?P<stage>\d+)", r"roi_heads.stages.\g<stage>.head"),
    ),
    ignored=IGNORED,
)

FASTER_RCNN = Format(
    name="faster_rcnn",
    title="Faster R-CNN",
    mark=r"^roi_head\.bbox_head\.",
    model_mark=r"^roi_heads\.stages\.0\.head\.fcs\.",
    configs="configs/baselines/faster_rcnn_{backbone}_fpn{dcn}_*.py",
    rules=(*TWO_STAGE_RULES, *box_head_rules(r"roi_head\.bbox_head", "roi_heads.stages.0.head")),
    ignored=IGNORED,
)

BODY = Format(
    name="body",
    title="backbone, neck and RPN",
    mark=r"^(backbone|neck|rpn_head)\.",
    model_mark="^$",
    configs="",
    rules=TWO_STAGE_RULES,
    ignored=IGNORED,
)
