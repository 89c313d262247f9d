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
ROWS_OF_ANCHORS = "one a class and anchor"

# The buffer of every head whose sides are distributions.
BINS = Ignored(r"bbox_head\.integral\.project", "the numbers 0, 1, 2, ... of the bins")
# Towers that stand in the head itself, not in an adapter around them.
_IN_THE_HEAD = r"^head\.towers\.classification\.0\."

_PREDICTORS = {"cls": "cls_score", "reg": "bbox_pred", "centerness": "centerness"}


def tower_names(theirs: str, ours: str) -> dict[str, str]:
    """Return our names of a row of convolutions with norms, of which some may be deformable."""
    layer, place = rf"{theirs}\.(?P<layer>\d+)\.", rf"{ours}.\g<layer>"
    return {
        layer + "conv": place,
        layer + "gn": place + ".norm",
        # Old files write conv_offset without the layer that it belongs to.
        layer + r"conv(?:\.conv)?_offset": place + ".offset",
    }


def twin_names(ours: str = "towers") -> dict[str, str]:
    """Return our names of the towers of both tasks, which stand at ``ours`` in the head."""
    tasks = {"cls_convs": f"{ours}.classification", "reg_convs": f"{ours}.regression"}
    return {name: place for task in tasks.items() for name, place in tower_names(*task).items()}


def predictor_names(theirs: str, *others: str) -> dict[str, str]:
    """Return our names of the predictors ``<theirs>_cls``, ``<theirs>_reg`` and of others that there are."""
    return {f"{theirs}_{name}": f"predictors.{_PREDICTORS[name]}" for name in ("cls", "reg", *others)}


def dense_rules(layers: Mapping[str, str], order: Mapping[str, Transform] | None = None) -> tuple[Rule, ...]:
    """Rules of a dense detector on a ResNet and the levels P3 to P7.

    Args:
        layers, order: of the head, as of :func:`htd.checkpoint.formats.openmmlab.head_rules`.
    """
    extra = {3: 6, 4: 7}
    return (
        *resnet_rules(),
        *fpn_rules(first_level=3, levels=3),
        *renumbered(r"neck\.fpn_convs\.#\.conv\.(\w+)", r"backbone.top_block.p#.\1", extra),
        *renumbered(r"neck\.fpn_convs\.#\.gn\.(\w+)", r"backbone.top_block.p#.norm.\1", extra),
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
        {**twin_names(), **predictor_names("retina")},
        {"retina_cls": scores_by_size, "retina_reg": boxes_by_size},
    ),
    ignored=IGNORED,
    convention=None,  # version 1, with boxes of its own kind, has the same names
    decoder=DeltaDecoder,
    classifier_rows=ROWS_OF_ANCHORS,
)

# The parameters of FCOS and ATSS have the same names and shapes: the decoder tells them apart.
_CENTERNESS = (_IN_THE_HEAD, r"^head\.predictors\.centerness\.")

FCOS = Format(
    name="fcos",
    title="FCOS",
    marks=(r"^bbox_head\.conv_centerness\.",),
    model_marks=_CENTERNESS,
    configs=("configs/baselines/fcos_r50_fpn_1x.py",),
    rules=dense_rules({**twin_names(), **predictor_names("conv", "centerness")}),
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
    rules=dense_rules({**twin_names(), **predictor_names("atss", "centerness")}),
    ignored=IGNORED,
    convention=None,  # as RetinaNet
    decoder=DeltaDecoder,
    classifier_rows=ROWS,
)

GFL = Format(
    name="gfl",
    title="GFL",
    marks=(r"^bbox_head\.gfl_",),
    model_marks=(_IN_THE_HEAD, r"^head\.predictors\.scales\."),
    configs=("configs/baselines/gfl_r50_fpn_1x.py",),
    rules=dense_rules({**twin_names(), **predictor_names("gfl")}),
    ignored=(*IGNORED, BINS),
    convention=ContinuousBoxes,
    decoder=DistributionDecoder,
    classifier_rows=ROWS,
)
