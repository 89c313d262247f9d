"""Refuses parts of a dense detector that do not fit together, before an image shows it, or nothing does."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from detectron2.modeling.backbone import Backbone
from torch import nn

from htd.errors import UserError
from htd.modeling.dense.checks import as_written
from htd.modeling.dense.decoders import Decoder
from htd.modeling.dense.head import DenseHead, Predictors
from htd.modeling.dense.postprocessing import DensePostProcessing


def check_parts(
    backbone: nn.Module,
    in_features: Sequence[str],
    head: nn.Module,
    anchor_generator: nn.Module,
    decoder: Decoder,
    supervision: nn.Module,
    postprocessing: DensePostProcessing,
) -> None:
    """Compare channels, levels, anchors and boxes; parts of another kind than this package's may be any.

    Detectron2's generator makes anchors for as many maps as it has strides and looks at no map's own: those
    of a wrong stride are detections in wrong places, without a message.

    Args:
        backbone, in_features, head, anchor_generator, decoder, supervision, postprocessing: of the detector.

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
        _check_channels(backbone, in_features, head)
        _check_anchors(head.predictors.num_anchors, anchor_generator.num_anchors)
        _check_levels_of_towers(head.towers, len(anchor_generator.strides))
        if isinstance(head.predictors, Predictors):
            _check_levels(len(head.predictors.scales), len(anchor_generator.strides))
            _check_boxes(head.predictors.regression_dim, decoder)
            _check_losses(head, supervision)
            _check_classes(head.predictors, postprocessing)


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


def _check_channels(backbone: nn.Module, names: Sequence[str], head: DenseHead) -> None:
    """Compare each part with the one before; those that do not say what they take may take anything."""
    maps = backbone.output_shape() if isinstance(backbone, Backbone) else {}
    known = [maps[name].channels for name in names if name in maps]
    taken = {"the maps of model.backbone (out_channels)": known}
    inner = dict(head.towers.named_children())
    wrapped = [f"towers.{name}" for name in ("towers", "operator") if "operator" in inner and name in inner]
    for name in [*(wrapped or ["towers"]), "predictors"]:
        taken[f"model.head.{name}.channels"] = _channels(head.get_submodule(name))
    numbers = [sorted({count for count in counts if count}) for counts in taken.values()]
    if any(before and after and before != after for before, after in pairwise(numbers)):
        said = [
            f"{key} {' or '.join(map(str, counts))}"
            for key, counts in zip(taken, numbers, strict=True)
            if counts
        ]
        raise UserError(f"numbers of channels differ: {', '.join(said)}; give them all the same")


def _channels(part: nn.Module) -> list[int]:
    count = getattr(part, "channels", None)
    return [count] if isinstance(count, int) else []


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


def _check_levels_of_towers(towers: nn.Module, levels: int) -> None:
    known = getattr(towers, "num_levels", levels)
    if known != levels:
        raise UserError(
            f"model.head.towers.operator.num_levels is {known}, but there are {levels} levels: give {levels}"
        )


def _check_boxes(predicted: int, decoder: Decoder) -> None:
    if isinstance(decoder, Decoder) and not decoder.reads(predicted):
        raise UserError(
            f"model.decoder reads {decoder.wanted} numbers of a prior, model.head.predictors gives "
            f"{predicted}: set box_dim of the predictors, or take a decoder that goes with them; "
            "a T-Head, which has no box_dim, and no other head, goes with a SampledBoxDecoder"
        )


def _check_losses(head: DenseHead, supervision: nn.Module) -> None:
    terms = [term for part in supervision.modules() for term in getattr(part, "terms", ())]
    wanted = {getattr(term.loss, "reads", None) for term in terms}
    if "centerness" in wanted and head.predictors.centerness is None:
        raise UserError(
            "model.supervision has a loss of centerness, which the head does not predict: set "
            "model.head.predictors.centerness_from to classification or regression, or leave the term out"
        )
    if "coarse" in wanted and not getattr(head.towers, "coarse", False):
        raise UserError(
            "model.supervision has a loss of coarse boxes, which the towers do not predict: wrap "
            "model.head.towers in SALTTowers whose operator has coarse=true, or leave the term out"
        )


def _check_classes(predictors: Predictors, postprocessing: DensePostProcessing) -> None:
    extra, known = predictors.extra_classes, getattr(postprocessing, "num_classes", None)
    classes = predictors.class_outputs - extra
    if known != classes and (extra or known is not None):
        raise UserError(
            f"model.head.predictors has {classes} classes and {extra} extra_classes, but "
            f"model.postprocessing.num_classes is {as_written(known)}, and detections from there on are "
            f"dropped: give it {classes}, or, without extra_classes, null"
        )
