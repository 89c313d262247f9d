"""Key maps of HTC, with and without its semantic branch (names of MMDetection 2 and 3).

The information flow is part of the receiving mask head there, ``mask_head.1.conv_res``, and a part
between the heads here: the first transform leads into the second head.
"""

from __future__ import annotations

from htd.checkpoint.formats.base import Format, Rule, renumbered
from htd.checkpoint.formats.openmmlab import CASCADE_RULES, IGNORED, STAGED_MASK_RULES, TWO_STAGE_RULES
from htd.layers import ContinuousBoxes

_SEMANTIC, _OUR_SEMANTIC = r"roi_head\.semantic_head\.", "roi_heads.context.semantic."

_FLOW_RULES = tuple(
    renumbered(
        r"roi_head\.mask_head\.#\.conv_res\.conv\.(\w+)",
        r"roi_heads.mask_branch.flow.transforms.#.\1",
        {1: 0, 2: 1},
    )
)
_SEMANTIC_RULES = (
    Rule(_SEMANTIC + r"lateral_convs\.(\d+)\.conv\.(\w+)", _OUR_SEMANTIC + r"laterals.\1.\2"),
    Rule(_SEMANTIC + r"convs\.(\d+)\.conv\.(\w+)", _OUR_SEMANTIC + r"convs.\1.\2"),
    Rule(_SEMANTIC + r"conv_embedding\.conv\.(\w+)", _OUR_SEMANTIC + r"embedding.\1"),
    Rule(_SEMANTIC + r"conv_logits\.(\w+)", _OUR_SEMANTIC + r"predictor.\1"),
)
_RULES = (*TWO_STAGE_RULES, *CASCADE_RULES, *STAGED_MASK_RULES, *_FLOW_RULES)

HTC = Format(
    name="htc",
    title="HTC",
    marks=(r"^roi_head\.semantic_head\.",),
    model_marks=(r"^roi_heads\.context\.semantic\.",),
    configs=(
        "configs/htc/htc_r50_fpn_1x.py",
        "configs/htc/htc_r50_fpn_20e.py",
        "configs/htc/htc_r101_fpn_20e.py",
        "configs/htc/htc_x101_32x4d_fpn_20e.py",
        "configs/htc/htc_x101_64x4d_fpn_20e.py",
        "configs/htc/htc_x101_64x4d_fpn_dcn_20e_ms.py",
    ),
    rules=(*_RULES, *_SEMANTIC_RULES),
    ignored=IGNORED,
    convention=ContinuousBoxes,
)

HTC_WITHOUT_SEMANTIC = Format(
    name="htc_without_semantic",
    title="HTC without semantics",
    marks=(r"^roi_head\.mask_head\.\d+\.conv_res\.",),
    model_marks=(r"^roi_heads\.mask_branch\.flow\.transforms\.",),
    configs=("configs/htc/htc_without_semantic_r50_fpn_1x.py",),
    rules=_RULES,
    ignored=IGNORED,
    convention=ContinuousBoxes,
)
