"""Key maps of the published TSD checkpoints (names of the repository Sense-X/TSD).

They were trained with MMDetection 1: the background is the first class, and a box names its first and last
pixels. A stage of TSD has the sibling head that trains beside it (``shared_fcs``, ``fc_cls``, ``fc_reg``),
the trunk of both offsets (``shared_fc``, one letter less), and a tower for each of the two tasks.
"""

from __future__ import annotations

from htd.checkpoint.formats.base import Format, Rule, Transform
from htd.checkpoint.formats.class_order import (
    background_box_last,
    background_last,
    without_background,
    without_background_box,
)
from htd.checkpoint.formats.openmmlab import (
    IGNORED,
    TWO_STAGE_RULES,
    box_head_rules,
    head_rules,
    mask_head_rules,
)
from htd.layers import InclusiveBoxes

_LAYERS = {
    r"shared_fc\.0": "trunk",
    r"delta_c\.(?P<layer>[02])": r"classification.shift.\g<layer>",
    r"delta_r\.(?P<layer>[02])": r"regression.shift.\g<layer>",
    r"TSD_pc_fcs\.(?P<layer>\d+)": r"classification.fcs.\g<layer>",
    r"TSD_pr_fcs\.(?P<layer>\d+)": r"regression.fcs.\g<layer>",
    "TSD_fc_cls": "classification.cls_score",
    "TSD_fc_reg": "regression.bbox_pred",
}


def _stage_rules(theirs: str, ours: str, boxes: Transform, beside: str | None = None) -> tuple[Rule, ...]:
    """Rules of a stage of TSD; ``boxes`` brings the rows of its boxes into our order."""
    order = {"TSD_fc_cls": background_last, "TSD_fc_reg": boxes}
    sibling = {"fc_cls": background_last, "fc_reg": boxes}
    return (
        *head_rules(theirs, ours, _LAYERS, order),
        *box_head_rules(theirs, f"{ours}.sibling", sibling, beside),
    )


_SINGLE_STAGE_RULES = _stage_rules(r"bbox_head", "roi_heads.stages.0.head", without_background_box)

_STAGE, _OUR_STAGE = r"bbox_head\.(?P<stage>\d+)", r"roi_heads.stages.\g<stage>.head"
_CASCADE_RULES = (
    *_stage_rules(_STAGE, _OUR_STAGE, background_box_last, beside=r"bbox_head.\g<stage>.TSD_fc_cls.weight"),
    # What has no TSD beside it is a plain stage of the cascade.
    *box_head_rules(_STAGE, _OUR_STAGE, {"fc_cls": background_last, "fc_reg": background_box_last}),
)

TSD_CASCADE = Format(
    name="tsd_cascade",
    title="TSD on Cascade R-CNN",
    marks=(r"^bbox_head\.\d+\.TSD_",),
    model_marks=(r"^roi_heads\.stages\.\d+\.head\.trunk\.", r"^roi_heads\.stages\.1\."),
    configs=("configs/tsd/tsd_cascade_r50_fpn_20e.py", "configs/tsd/tsd_cascade_r101_fpn_20e.py"),
    rules=(*TWO_STAGE_RULES, *_CASCADE_RULES),
    ignored=IGNORED,
    convention=InclusiveBoxes,
)

TSD_MASK = Format(
    name="tsd_mask",
    title="TSD on Mask R-CNN",
    marks=(r"^bbox_head\.TSD_", r"^mask_head\."),
    model_marks=(r"^roi_heads\.stages\.0\.head\.trunk\.", r"^roi_heads\.mask_branch\.heads\.0\."),
    configs=("configs/tsd/tsd_mask_r50_fpn_1x.py",),
    rules=(
        *TWO_STAGE_RULES,
        *_SINGLE_STAGE_RULES,
        *mask_head_rules("mask_head", "roi_heads.mask_branch.heads.0", {"conv_logits": without_background}),
    ),
    ignored=IGNORED,
    convention=InclusiveBoxes,
)

TSD_FASTER = Format(
    name="tsd_faster",
    title="TSD on Faster R-CNN",
    marks=(r"^bbox_head\.TSD_",),
    model_marks=(r"^roi_heads\.stages\.0\.head\.trunk\.",),
    configs=(
        "configs/tsd/tsd_faster_r50_fpn_1x.py",
        "configs/tsd/tsd_faster_r101_fpn_1x.py",
        "configs/tsd/tsd_faster_r152_fpn_1x.py",
        "configs/tsd/tsd_faster_x101_64x4d_fpn_dcn_ms.py",
        "configs/tsd/tsd_faster_r50_fpn_openimages.py",
    ),
    rules=(*TWO_STAGE_RULES, *_SINGLE_STAGE_RULES),
    ignored=IGNORED,
    convention=InclusiveBoxes,
)
