"""Key maps of the plain dense detectors of MMDetection 2 and 3: RetinaNet, FCOS, ATSS, GFL.

Two towers of convolutions lead to the predictors; a level's box regression has a scale of its own, which
RetinaNet lacks.
"""

from __future__ import annotations

from collections.abc import Mapping

from htd.checkpoint.formats.anchor_order import boxes_by_size, scores_by_size
from htd.checkpoint.formats.base import Format, Ignored, Rule, Transform, renumbered
from htd.checkpoint.formats.openmmlab import IGNORED, fpn_rules, head_rules, resnet_rules
from htd.layers import ContinuousBoxes
from htd.modeling.dense import DeltaDecoder, DistanceDecoder, DistributionDecoder

# No row of a dense classifier stands for the background.
ROWS = "one a class"

_TOWERS = {
    r"cls_convs\.(?P<layer>\d+)\.conv": r"towers.classification.\g<layer>",
    r"cls_convs\.(?P<layer>\d+)\.gn": r"towers.classification.\g<layer>.norm",
    r"reg_convs\.(?P<layer>\d+)\.conv": r"towers.regression.\g<layer>",
    r"reg_convs\.(?P<layer>\d+)\.gn": r"towers.regression.\g<layer>.norm",
}


def dense_rules(layers: Mapping[str, str], order: Mapping[str, Transform] | None = None) -> tuple[Rule, ...]:
    """Rules of a dense detector on a ResNet and the levels P3 to P7.

    Args:
        layers, order: of the head, as of :func:`htd.checkpoint.formats.openmmlab.head_rules`.
    """
    return (
        *resnet_rules(),
        *fpn_rules(first_level=3, levels=3),
        *renumbered(r"neck\.fpn_convs\.#\.conv\.(\w+)", r"backbone.top_block.p#.\1", {3: 6, 4: 7}),
        *head_rules("bbox_head", "head", layers, order),
        Rule(r"bbox_head\.scales\.(\d+)\.scale", r"head.predictors.scales.\1"),
    )


RETINANET = Format(
    name="retinanet",
    title="RetinaNet",
    marks=(r"^bbox_head\.retina_(cls|reg)\.",),
    # Its convolutions have a bias where those of the others have a norm.
    model_marks=(r"^head\.towers\.classification\.0\.bias$",),
    configs=("configs/baselines/retinanet_r50_fpn_1x.py",),
    rules=dense_rules(
        {**_TOWERS, "retina_cls": "predictors.cls_score", "retina_reg": "predictors.bbox_pred"},
        {"retina_cls": scores_by_size, "retina_reg": boxes_by_size},
    ),
    ignored=IGNORED,
    convention=None,  # version 1, with boxes of its own kind, has the same names
    decoder=DeltaDecoder,
    classifier_rows="one a class and anchor",
)

# The parameters of FCOS and ATSS have the same names and shapes: the decoder tells them apart.
_CENTERNESS = (r"^head\.predictors\.centerness\.",)

FCOS = Format(
    name="fcos",
    title="FCOS",
    marks=(r"^bbox_head\.conv_centerness\.",),
    model_marks=_CENTERNESS,
    configs=("configs/baselines/fcos_r50_fpn_1x.py",),
    rules=dense_rules(
        {
            **_TOWERS,
            "conv_cls": "predictors.cls_score",
            "conv_reg": "predictors.bbox_pred",
            "conv_centerness": "predictors.centerness",
        }
    ),
    ignored=IGNORED,
    convention=ContinuousBoxes,
    decoder=DistanceDecoder,
    classifier_rows=ROWS,
)

ATSS = Format(
    name="atss",
    title="ATSS",
    marks=(r"^bbox_head\.atss_",),
    model_marks=_CENTERNESS,
    configs=("configs/baselines/atss_r50_fpn_1x.py",),
    rules=dense_rules(
        {
            **_TOWERS,
            "atss_cls": "predictors.cls_score",
            "atss_reg": "predictors.bbox_pred",
            "atss_centerness": "predictors.centerness",
        }
    ),
    ignored=IGNORED,
    convention=None,  # as RetinaNet
    decoder=DeltaDecoder,
    classifier_rows=ROWS,
)

GFL = Format(
    name="gfl",
    title="GFL",
    marks=(r"^bbox_head\.gfl_",),
    model_marks=(r"^head\.predictors\.scales\.",),
    configs=("configs/baselines/gfl_r50_fpn_1x.py",),
    rules=dense_rules({**_TOWERS, "gfl_cls": "predictors.cls_score", "gfl_reg": "predictors.bbox_pred"}),
    ignored=(*IGNORED, Ignored(r"bbox_head\.integral\.project", "the numbers 0, 1, 2, ... of the bins")),
    convention=ContinuousBoxes,
    decoder=DistributionDecoder,
    classifier_rows=ROWS,
)
