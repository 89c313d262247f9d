"""Key map of the published TOOD checkpoints, of MMDetection 2 and 3 and of the repository fcjian/TOOD.

The two differ in the names of eight modules; one file has the ones or the others. Whether boxes are decoded
from points or from anchors shows neither in names nor in shapes.
"""

from __future__ import annotations

from htd.checkpoint.formats.base import Format
from htd.checkpoint.formats.dense import ROWS, dense_rules, tower_names
from htd.checkpoint.formats.openmmlab import IGNORED
from htd.layers import ContinuousBoxes


def _two_layers(listed: str, numbered: str, ours: str) -> dict[str, str]:
    """Return our names of two convolutions, which one release lists, with a ReLU between, and one numbers."""
    return {
        rf"{listed}\.(?P<layer>[02])": rf"{ours}.\g<layer>",
        f"{numbered}1": f"{ours}.0",
        f"{numbered}2": f"{ours}.2",
    }


def _decomposition(theirs: str, ours: str) -> dict[str, str]:
    """Return our names of the layers that cut one task's features out of the stack."""
    return {
        **_two_layers(rf"{theirs}\.layer_attention", rf"{theirs}\.la_conv", f"{ours}.attention"),
        rf"{theirs}\.reduction_conv\.conv": f"{ours}.reduction",
        rf"{theirs}\.reduction_conv\.gn": f"{ours}.reduction.norm",
    }


TOOD = Format(
    name="tood",
    title="TOOD",
    marks=(r"^bbox_head\.tood_",),
    model_marks=(r"^head\.towers\.interactive\.",),
    configs=(
        "configs/tood/tood_r50_fpn_1x.py",
        "configs/tood/tood_r50_fpn_anchor_based_1x.py",
        "configs/tood/tood_r50_fpn_2x_ms.py",
        "configs/tood/tood_r101_fpn_2x_ms.py",
        "configs/tood/tood_r101_fpn_dcnv2_2x_ms.py",
        "configs/tood/tood_x101_64x4d_fpn_2x_ms.py",
        "configs/tood/tood_x101_64x4d_fpn_dcnv2_2x_ms.py",
    ),
    rules=dense_rules(
        {
            **tower_names("inter_convs", "towers.interactive"),
            **_decomposition("cls_decomp", "towers.classification"),
            **_decomposition("reg_decomp", "towers.regression"),
            "tood_cls": "predictors.cls_score",
            "tood_reg": "predictors.bbox_pred",
            **_two_layers("cls_prob_module", "cls_prob_conv", "predictors.score_map"),
            **_two_layers("reg_offset_module", "reg_offset_conv", "predictors.box_offsets"),
        }
    ),
    ignored=IGNORED,
    convention=ContinuousBoxes,
    classifier_rows=ROWS,
)
