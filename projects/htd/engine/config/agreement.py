"""Compares what the data give with what the model expects, when a run is built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from htd.engine.config.builder import locate_target, parameters_of
from htd.engine.config.own_data import class_counts, counted
from htd.errors import UserError

_ANCHORS = "model.proposal_generator.anchor_generator"


def check_agreement(config: DictConfig, part: str, classes: Sequence[str] | None = None) -> None:
    """Refuse data that the model would misread without an error.

    Compared are the number of classes, the order of color channels, what the corners of boxes mean, and
    whether there are the masks and semantic maps that the model learns.

    Args:
        config: the config of the run.
        part: ``train`` or ``test``.
        classes: names of the classes of the data, None if they are not known.

    Raises:
        UserError: data and model disagree; one sentence with both keys.
    """
    counts = sorted({count for _, count in class_counts(config.model)})
    if classes is not None and counts and len(classes) not in counts:
        raise UserError(
            f"the model has num_classes {'/'.join(map(str, counts))}, the {part} data have "
            f"{counted(classes)}: set num_classes in the model to {len(classes)}, "
            "or give your files by --train-json, --train-images, --val-json, --val-images, which do it"
        )
    mapper, model = f"dataloader.{part}.mapper", "model"
    ours, theirs = (
        OmegaConf.select(config, key) for key in (f"{mapper}.image_format", f"{model}.input_format")
    )
    if None not in (ours, theirs) and ours != theirs:
        raise UserError(
            f"{mapper}.image_format is {ours}, but model.input_format is {theirs}: set both alike"
        )
    if part == "train":
        _check_targets(config)
    boxes = _class_name(config, "model.box_convention") or "ContinuousBoxes"
    target = _target(config, mapper)
    if part == "train" and target and "convention" in (parameters_of(target) or {}):
        ours = _class_name(config, f"{mapper}.convention") or "ContinuousBoxes"
        if ours != boxes:
            raise UserError(
                f"{mapper}.convention is {ours}, but model.box_convention is {boxes}: set both alike"
            )
    rounded = _class_name(config, _ANCHORS) == "RoundedAnchorGenerator"
    if rounded != (boxes == "InclusiveBoxes") and _class_name(config, _ANCHORS):
        wanted = "DefaultAnchorGenerator" if rounded else "RoundedAnchorGenerator"
        raise UserError(f"{_ANCHORS} does not go with model.box_convention, which is {boxes}: take {wanted}")


def _check_targets(config: DictConfig) -> None:
    dataset = OmegaConf.select(config, "dataloader.train.dataset")
    if not isinstance(dataset, DictConfig) or "json_file" not in dataset:
        return
    if OmegaConf.select(config, "model.roi_heads.mask_branch.heads") and not dataset.get("masks"):
        raise UserError(
            "model.roi_heads.mask_branch learns masks, but the training data are read without: set "
            "dataloader.train.dataset.masks=True and dataloader.train.mapper.mask_format=bitmask, or take a "
            "config without masks"
        )
    if OmegaConf.select(config, "model.roi_heads.context.semantic") and not dataset.get("semantic_root"):
        raise UserError(
            "model.roi_heads.context.semantic learns semantic maps, but the training data have none: set "
            "dataloader.train.dataset.semantic_root to their folder, draw maps from the instance masks "
            "(tools/draw_semantic_maps.py), or take a config without the semantic branch"
        )


def _target(config: DictConfig, key: str) -> Any:
    node = OmegaConf.select(config, key)
    target = node.get("_target_") if isinstance(node, DictConfig) else None
    return target and locate_target(target, key)


def _class_name(config: DictConfig, key: str) -> str | None:
    return getattr(_target(config, key), "__name__", None)
