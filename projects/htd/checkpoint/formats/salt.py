"""Key maps of the published SALT-Net models, and of the dense detectors with SALT of the same repository.

The operator stands behind towers that ours holds in an adapter; it has group norms that are called ``bn``.
Only SALT-Net itself is configured there; the others are heads without configs or results.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from htd.checkpoint.formats.anchor_order import boxes_of_one
from htd.checkpoint.formats.base import Format, Ignored, Rule, Transform
from htd.checkpoint.formats.dense import (
    ATSS,
    BINS,
    FCOS,
    RETINANET,
    ROWS,
    dense_rules,
    predictor_names,
    twin_names,
)
from htd.checkpoint.formats.openmmlab import IGNORED
from htd.checkpoint.formats.res2net import res2net_rules
from htd.layers import ContinuousBoxes
from htd.modeling.dense import DistributionDecoder

_UNREAD = "a scalar of each level that the published head never reads"
_OPERATOR = r"^head\.towers\.operator\."

# Some of a Res2Net's names are those of a ResNet, but ours are not: the stem tells which it is.
_BODY = tuple(replace(rule, beside="backbone.stem.0.weight") for rule in res2net_rules())


def _salt_rules(
    prefix: str, predictors: Mapping[str, str], order: Mapping[str, Transform] | None = None
) -> tuple[Rule, ...]:
    """Rules of a dense detector whose towers have the operator behind them.

    Args:
        prefix: before the names of the layers that sample: "salt", or "ram" where other heads have them.
        predictors, order: as of :func:`htd.checkpoint.formats.openmmlab.head_rules`.
    """
    ours = "towers.operator"
    operator = {
        r"reg_init_out\.conv": f"{ours}.coarse_conv",
        r"reg_init_out\.bn": f"{ours}.coarse_conv.norm",
        r"reg_init_out\.regression": f"{ours}.distances",
        r"reg_init_out\.scale_fs": f"{ours}.factors",
        rf"{prefix}_cls_refinement\.conv": f"{ours}.vector_conv",
        rf"{prefix}_cls_refinement\.bn": f"{ours}.vector_conv.norm",
        rf"{prefix}_cls_refinement\.proposal": f"{ours}.vectors",
        rf"{prefix}_reg_conv\.conv": f"{ours}.regression",
        rf"{prefix}_reg_conv\.bn": f"{ours}.regression.norm",
        rf"{prefix}_cls_conv\.conv": f"{ours}.classification",
        rf"{prefix}_cls_conv\.bn": f"{ours}.classification.norm",
    }
    return (
        *_BODY,
        *dense_rules({**twin_names("towers.towers"), **operator, **predictors}, order),
        Rule(r"bbox_head\.scales_init\.(\d+)\.scale", rf"head.{ours}.scales.\1"),
    )


def _without_extra_class(rows: int) -> int:
    return rows - 1


def _at_nine_anchors(rows: int) -> int:
    return 9 * rows


SALT = Format(
    name="salt",
    title="SALT-Net",
    marks=(r"^bbox_head\.salt_",),
    model_marks=(_OPERATOR, r"^head\.predictors\.quality\."),
    configs=(
        "configs/salt/salt_r50_fpn_1x.py",
        "configs/salt/salt_r50_fpn_2x_ms.py",
        "configs/salt/salt_x101_32x4d_fpn_dcn_2x_ms.py",
        "configs/salt/salt_x101_32x4d_fpn_dcnx_2x_ms.py",
        "configs/salt/salt_r2_101_fpn_dcn_2x_ms.py",
        "configs/salt/salt_r2_101_fpn_dcnx_2x_ms.py",
    ),
    rules=_salt_rules(
        "salt",
        {**predictor_names("salt"), r"reg_conf\.(?P<layer>[02])": r"predictors.quality.\g<layer>"},
    ),
    ignored=(*IGNORED, BINS),
    convention=ContinuousBoxes,
    decoder=DistributionDecoder,
    classifier_rows=f"{ROWS}, and in published files one that no object has",
    overrides=("model.head.predictors.extra_classes=1",),
    rows_before=_without_extra_class,
)

_PLUG_IN = r"^bbox_head\.ram_"
_CENTERNESS = (_OPERATOR, r"^head\.predictors\.centerness\.")

# What is not named here is as in the host's published files.
SALT_ATSS = replace(
    ATSS,
    name="salt_atss",
    title="ATSS with SALT",
    marks=(_PLUG_IN, *ATSS.marks),
    model_marks=_CENTERNESS,
    configs=("configs/salt/salt_atss_r50_fpn_1x.py",),
    rules=_salt_rules("ram", predictor_names("atss", "centerness")),
    convention=ContinuousBoxes,
)

SALT_FCOS = replace(
    FCOS,
    name="salt_fcos",
    title="FCOS with SALT",
    marks=(_PLUG_IN, *FCOS.marks),
    model_marks=_CENTERNESS,
    configs=("configs/salt/salt_fcos_r50_fpn_1x.py",),
    rules=_salt_rules("ram", predictor_names("conv", "centerness")),
)

SALT_RETINANET = replace(
    RETINANET,
    name="salt_retinanet",
    title="RetinaNet with SALT",
    marks=(_PLUG_IN, *RETINANET.marks),
    model_marks=(_OPERATOR, r"^head\.towers\.towers\.classification\.0\.bias$"),
    configs=("configs/salt/salt_retinanet_r50_fpn_1x.py",),
    rules=_salt_rules("ram", predictor_names("retina"), {"retina_reg": boxes_of_one}),
    ignored=(*RETINANET.ignored, Ignored(r"bbox_head\.scales\.\d+\.scale", _UNREAD)),
    convention=ContinuousBoxes,
    # As published: one anchor a cell, four cells wide.
    overrides=(
        "model.head.predictors.num_anchors=1",
        "model.anchor_generator.sizes=[[32],[64],[128],[256],[512]]",
        "model.anchor_generator.aspect_ratios=[1.0]",
    ),
    rows_before=_at_nine_anchors,
)
