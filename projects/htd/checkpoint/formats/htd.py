"""Key map of the published HTD checkpoints (names of the repository CityU-AIM-Group/HTD).

The border-aware extractor registers its two attention layers twice, as ``att.1`` and ``conv1`` and
as ``att.3`` and ``conv2``. A file holds both names of each tensor; here they lead to one parameter.
"""

from __future__ import annotations

from htd.checkpoint.formats.base import Format, Rule, renumbered
from htd.checkpoint.formats.openmmlab import IGNORED, TWO_STAGE_RULES, box_head_rules
from htd.layers import ContinuousBoxes

_SECOND = r"roi_head\.bbox_head\.1\."
_EXTRACTOR = r"roi_head\.bbox_roi_extractor\.1\."
_CONTEXT = r"roi_head\.glbctx_head\."
_CLASSIFICATION = "roi_heads.stages.1.head.classification."
_REGRESSION = "roi_heads.stages.1.head.regression."
_ATTENTION = _REGRESSION + "features.terms.0.attention."
_GLOBAL = "roi_heads.context.global_vector."

_CONTEXT_RULES = (
    Rule(_CONTEXT + r"convs\.(\d+)\.conv\.(\w+)", _GLOBAL + r"convs.\1.\2"),
    Rule(_CONTEXT + r"fc\.(\w+)", _GLOBAL + r"fc.\1"),
)
_CLASSIFICATION_RULES = (
    # Their stack counts the activations between the layers.
    *renumbered(_SECOND + r"fcs\.#\.(\w+)", _CLASSIFICATION + r"fcs.#.\1", {0: 0, 2: 1}),
    Rule(_SECOND + r"graph_lvl(\d+)_cls\.(\w+)", _CLASSIFICATION + r"graph.transforms.\1.\2"),
    Rule(_SECOND + r"fc_cls\.(\w+)", _CLASSIFICATION + r"cls_score.\1"),
)
_REGRESSION_RULES = (
    Rule(_SECOND + r"convs\.(\d+)\.conv\.(\w+)", _REGRESSION + r"tower.\1.\2"),
    Rule(_SECOND + r"convs\.(\d+)\.gn\.(\w+)", _REGRESSION + r"tower.\1.norm.\2"),
    Rule(_SECOND + r"fc_reg\.(\w+)", _REGRESSION + r"bbox_pred.\1"),
    *renumbered(_EXTRACTOR + r"att\.#\.(\w+)", _ATTENTION + r"#.\1", {1: 0, 3: 2}),
    *renumbered(_EXTRACTOR + r"conv#\.(\w+)", _ATTENTION + r"#.\1", {1: 0, 2: 2}),
)

HTD = Format(
    name="htd",
    title="HTD",
    marks=(
        r"^roi_head\.(glbctx_head|bbox_roi_extractor\.1\.(att|conv)|bbox_head\.1\.(graph_lvl|convs|fcs))",
    ),
    model_marks=(r"^roi_heads\.(stages\.1\.head\.classification|context\.global_vector)\.",),
    configs=(
        "configs/htd/htd_r50_fpn_1x.py",
        "configs/htd/htd_r101_fpn_2x.py",
        "configs/htd/htd_r101_fpn_2x_ms.py",
        "configs/htd/htd_r101_fpn_dcn_2x_ms.py",
        "configs/htd/htd_x101_64x4d_fpn_dcn_2x_ms.py",
    ),
    rules=(
        *TWO_STAGE_RULES,
        *_CONTEXT_RULES,
        *box_head_rules(r"roi_head\.bbox_head\.0", "roi_heads.stages.0.head"),
        *_CLASSIFICATION_RULES,
        *_REGRESSION_RULES,
    ),
    ignored=IGNORED,
    convention=ContinuousBoxes,
)
