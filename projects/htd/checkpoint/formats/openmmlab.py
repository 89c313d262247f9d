"""What the published files of the OpenMMLab family have in common: backbone, neck, RPN, plain heads.

Their names are those that the modules of MMDetection have. Few values need another layout: fully
connected layers see (channel, row, column), classes are in the order of COCO's category ids, an RPN's
anchors are ordered as Detectron2's, transposed convolutions as PyTorch's. Only the background, which is
the last class of versions 2 and 3 as it is ours, is the first one of version 1
(:mod:`htd.checkpoint.formats.class_order`), and RetinaNet has its anchors in another order
(:mod:`htd.checkpoint.formats.anchor_order`).
"""

from __future__ import annotations

from collections.abc import Mapping

from htd.checkpoint.formats.base import Ignored, Rule, Transform, renumbered

IGNORED = (Ignored(r"ema_.*", "moving average kept for training"),)


def resnet_rules(prefix: str = r"backbone\.", ours: str = "backbone.bottom_up.") -> tuple[Rule, ...]:
    """Rules of a ResNet or ResNeXt, with or without deformable layers.

    Args:
        prefix: regular expression before the names of the published network.
        ours: what stands before ours.
    """
    block, place = prefix + r"layer#\.(\d+)\.", ours + r"res#.\1."
    stages = {stage: stage + 1 for stage in range(1, 5)}
    return (
        Rule(prefix + r"conv1\.weight", ours + "stem.conv1.weight"),
        Rule(prefix + r"bn1\.(\w+)", ours + r"stem.conv1.norm.\1"),
        *renumbered(block + r"conv(\d)\.weight", place + r"conv\2.weight", stages),
        *renumbered(block + r"bn(\d)\.(\w+)", place + r"conv\2.norm.\3", stages),
        *renumbered(block + r"downsample\.0\.weight", place + "shortcut.weight", stages),
        *renumbered(block + r"downsample\.1\.(\w+)", place + r"shortcut.norm.\2", stages),
        # Old files write conv2_offset, as Detectron2 does.
        *renumbered(block + r"conv2(?:\.conv)?_offset\.(\w+)", place + r"conv2_offset.\2", stages),
    )


def fpn_rules(first_level: int = 2, levels: int = 4) -> tuple[Rule, ...]:
    """Rules of an FPN, with group norm or without, whose finest lateral stands on level ``first_level``."""
    numbers = {index: index + first_level for index in range(levels)}
    return (
        *renumbered(r"neck\.lateral_convs\.#\.conv\.(\w+)", r"backbone.fpn_lateral#.\1", numbers),
        *renumbered(r"neck\.lateral_convs\.#\.gn\.(\w+)", r"backbone.fpn_lateral#.norm.\1", numbers),
        *renumbered(r"neck\.fpn_convs\.#\.conv\.(\w+)", r"backbone.fpn_output#.\1", numbers),
        *renumbered(r"neck\.fpn_convs\.#\.gn\.(\w+)", r"backbone.fpn_output#.norm.\1", numbers),
    )


RPN_RULES = (
    Rule(r"rpn_head\.rpn_conv\.(\w+)", r"proposal_generator.rpn_head.conv.\1"),
    Rule(r"rpn_head\.rpn_cls\.(\w+)", r"proposal_generator.rpn_head.objectness_logits.\1"),
    Rule(r"rpn_head\.rpn_reg\.(\w+)", r"proposal_generator.rpn_head.anchor_deltas.\1"),
)

TWO_STAGE_RULES = (*resnet_rules(), *fpn_rules(), *RPN_RULES)


def box_head_rules(
    theirs: str, ours: str, order: Mapping[str, Transform] | None = None, beside: str | None = None
) -> tuple[Rule, ...]:
    """Rules of a box head: shared fully connected layers and two predictors.

    Args:
        theirs: pattern of the published head's path; may hold named groups.
        ours: our path of it; may refer to those groups.
        order: transforms of the predictors ``fc_cls`` and ``fc_reg``, where the order of the classes differs.
        beside: see :class:`Rule`.
    """
    layers = {r"shared_fcs\.(?P<layer>\d+)": r"fcs.\g<layer>", "fc_cls": "cls_score", "fc_reg": "bbox_pred"}
    return head_rules(theirs, ours, layers, order, beside)


def mask_head_rules(theirs: str, ours: str, order: Mapping[str, Transform] | None = None) -> tuple[Rule, ...]:
    """Rules of a mask head: a row of convolutions, a transposed one, a predictor.

    Args:
        theirs, ours: paths as of a box head.
        order: transform of the predictor ``conv_logits``, where the order of the classes differs.
    """
    layers = {
        r"convs\.(?P<layer>\d+)\.conv": r"convs.\g<layer>",
        "upsample": "deconv",
        "conv_logits": "predictor",
    }
    return head_rules(theirs, ours, layers, order)


def head_rules(
    theirs: str,
    ours: str,
    layers: Mapping[str, str],
    order: Mapping[str, Transform] | None = None,
    beside: str | None = None,
) -> tuple[Rule, ...]:
    """Rules of the weights and biases of a head's layers.

    Args:
        theirs, ours: paths of the head, as of a box head.
        layers: pattern of the published name of a layer → our name.
        order: such a pattern → transform of the layer's values.
        beside: see :class:`Rule`.
    """
    order = order or {}
    return tuple(
        Rule(
            rf"{theirs}\.{published}\.(?P<leaf>\w+)",
            rf"{ours}.{layer}.\g<leaf>",
            order.get(published),
            beside,
        )
        for published, layer in layers.items()
    )


CASCADE_RULES = box_head_rules(r"roi_head\.bbox_head\.(?P<stage>\d+)", r"roi_heads.stages.\g<stage>.head")
STAGED_MASK_RULES = mask_head_rules(
    r"roi_head\.mask_head\.(?P<stage>\d+)", r"roi_heads.mask_branch.heads.\g<stage>"
)
