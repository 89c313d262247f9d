"""Refuses parts of a dense detector that do not fit together, before an image shows it, or nothing does."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.modeling.backbone import Backbone
from torch import nn

from htd.errors import UserError
from htd.modeling.dense.decoders import Decoder
from htd.modeling.dense.head import DenseHead, Predictors
from htd.modeling.dense.losses import CenternessLoss


def check_parts(
    backbone: nn.Module,
    in_features: Sequence[str],
    head: nn.Module,
    anchor_generator: nn.Module,
    decoder: Decoder,
    supervision: nn.Module,
) -> None:
    """Compare levels, anchors and boxes of the parts; those of another kind than this package's may be any.

    Detectron2's generator makes anchors for as many maps as it has strides and looks at no map's own: those
    of a wrong stride are detections in wrong places, without a message.

    Args:
        backbone, in_features, head, anchor_generator, decoder, supervision: of the detector.

    Raises:
        UserError: naming the keys whose values do not fit.
    """
    if not in_features:
        raise UserError(
            "model.head_in_features is empty: name the maps of model.backbone that the head works on, "
            "finest first"
        )
    if isinstance(backbone, Backbone):
        _check_strides(backbone, list(in_features), list(anchor_generator.strides))
    if isinstance(head, DenseHead):
        _check_anchors(head.predictors.num_anchors, anchor_generator.num_anchors)
        if isinstance(head.predictors, Predictors):
            _check_levels(len(head.predictors.scales), len(anchor_generator.strides))
            _check_boxes(head.predictors.regression_dim, decoder)
            _check_centerness(head.predictors, supervision)


def _check_strides(backbone: Backbone, names: list[str], wanted: list[int]) -> None:
    maps = backbone.output_shape()
    for name in names:
        if name not in maps:
            raise UserError(
                f"model.head_in_features names {name}; the maps of model.backbone are {', '.join(maps)}"
            )
    strides = [maps[name].stride for name in names]
    if strides != wanted:
        raise UserError(
            f"model.head_in_features {', '.join(names)} have the strides {strides}, "
            f"model.anchor_generator.strides are {wanted}: give the generator those of the maps, and sizes "
            "that go with them"
        )


def _check_anchors(predicted: int, made: Sequence[int]) -> None:
    if set(made) != {predicted}:
        raise UserError(
            f"model.anchor_generator makes {sorted(set(made))} anchors a cell (sizes times aspect_ratios), "
            f"model.head.predictors predicts for {predicted}: change one of them; num_anchors of the "
            "predictors says how many, but for a T-Head, which has one"
        )


def _check_levels(scales: int, levels: int) -> None:
    if scales not in (0, levels):
        raise UserError(
            f"model.head.predictors.num_levels is {scales}, but there are {levels} levels: give {levels}, "
            "or 0 with a box_rule that has no scalars"
        )


def _check_boxes(predicted: int, decoder: Decoder) -> None:
    if isinstance(decoder, Decoder) and not decoder.reads(predicted):
        raise UserError(
            f"model.decoder reads {decoder.wanted} numbers of a prior, model.head.predictors gives "
            f"{predicted}: set box_dim of the predictors, or take a decoder that goes with them; "
            "a T-Head, which has no box_dim, and no other head, goes with a SampledBoxDecoder"
        )


def _check_centerness(predictors: Predictors, supervision: nn.Module) -> None:
    terms = [term for part in supervision.modules() for term in getattr(part, "terms", ())]
    if predictors.centerness is None and any(isinstance(term.loss, CenternessLoss) for term in terms):
        raise UserError(
            "model.supervision has a loss of centerness, which the head does not predict: set "
            "model.head.predictors.centerness_from to classification or regression, or leave the term out"
        )
