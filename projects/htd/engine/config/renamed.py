"""What older versions called the keys and classes of a config, so that configs saved by them still load."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from detectron2.utils.registry import locate

# Classes and modules of before, and their names of today.
NAMES = {
    "htd.engine.optim": "htd.engine.solver",
    "htd.engine.schedule": "htd.engine.solver",
    "htd.data.InclusiveResizeCV2": "htd.data.ResizeCV2",
    "htd.modeling.rpn.Detectron2ProposalRule": "htd.modeling.rpn.ProposalRule",
    "htd.modeling.cascade.legacy_masks": "htd.modeling.cascade.mask_targets",
    "htd.modeling.htc.MeanOverLabelled": "htd.modeling.htc.MeanOverLabeled",
    "htd.modeling.cascade.DecoupledHead": "htd.modeling.htd.DecoupledHead",
    "htd.modeling.cascade.DetectionSelector": "htd.modeling.cascade.DetectionPostProcessing",
    "htd.modeling.cascade.FCRegression": "htd.modeling.htd.FCRegression",
    "htd.modeling.cascade.SharedMapPooler": "htd.modeling.cascade.SemanticPooler",
    "htd.modeling.cascade.VectorAugmentedPooler": "htd.modeling.cascade.ImageVectorPooler",
    "htd.modeling.tsd.SharedMapOffsetPooler": "htd.modeling.tsd.SemanticOffsetPooler",
    "htd.modeling.tsd.SiblingTower": "htd.modeling.cascade.SharedFCHead",
    "htd.modeling.tsd.TSDStage": "htd.modeling.cascade.CascadeStage",
    "htd.modeling.dense.Supervision": "htd.modeling.dense.DenseCriterion",
    "htd.modeling.dense.TwoPhases": "htd.modeling.tood.TwoPhaseCriterion",
    "htd.modeling.dense.PairSelection": "htd.modeling.dense.PairTopK",
    "htd.modeling.dense.LocationSelection": "htd.modeling.dense.LocationTopK",
}
# Keys of before and their names of today, None if nothing is set there any longer; * is one index or name,
# ** are any. What stands under a key keeps its names. They are applied from first to last.
KEYS = {
    "model.supervision": "model.criterion",
    "model.postprocessing.selection": "model.postprocessing.pre_nms",
    "model.roi_heads.selection": "model.roi_heads.postprocessing",
    "model.roi_heads.context.global_vector": "model.roi_heads.context.image_vector",
    "model.roi_heads.**.vector": None,
    "model.roi_heads.**.poolers.*.name": None,
    "model.roi_heads.convention": "model.box_convention",
    "model.roi_heads.stages.*.loss_weight": "model.roi_heads.stages.*.losses.loss_weight",
    "model.roi_heads.stages.*.smooth_l1_beta": "model.roi_heads.stages.*.losses.smooth_l1_beta",
    "model.roi_heads.stages.*.classification_loss": "model.roi_heads.stages.*.losses.classification_loss",
    "model.roi_heads.stages.*.constraints": "model.roi_heads.stages.*.losses.constraints",
    "model.proposal_generator.anchor_labeler.convention": "model.box_convention",
    "model.proposal_generator.proposal_rule.convention": "model.box_convention",
}
_BOX_LOSSES = ("loss_weight", "smooth_l1_beta", "classification_loss")
# Arguments that had another value, under an old name, where a config did not state them.
OLD_DEFAULTS = {"htd.modeling.rpn.Detectron2ProposalRule": ("min_box_size", 0.0)}
_INTERPOLATION = re.compile(r"\$\{(\.*)([^{}]*)\}")
_MARKED = re.compile(r"\$\{(\^?)([^{}]*)\}")  # relative ones while they are written as absolute


def renamed_classes(text: str) -> tuple[str, list[str]]:
    """Return the text of a saved config with today's names of classes, and a line for each other name."""
    notes = []
    for old, new in NAMES.items():
        text, count = re.subn(rf"(?<![\w.]){re.escape(old)}(?!\w)", new, text)
        notes += [f"{old} is now {new}"] * bool(count)
    return text, notes


def state_old_defaults(text: str, config: Any) -> None:
    """State in a saved config, in place, what an argument was without being stated and is no longer."""
    for old, (argument, value) in OLD_DEFAULTS.items():
        for _, node in walk(config) if old in text else ():
            if isinstance(node, dict) and node.get("_target_") == NAMES[old]:
                node.setdefault(argument, value)


def renamed_key(key: str) -> str | None:
    """Return today's name of a key, which may be the same; None if there is no such key any longer."""
    for old, new in KEYS.items():
        match = _match(old, key)
        if match:
            if new is None:
                return None
            for part in match.groups():
                new = new.replace("*", part, 1)
            key = new + key[match.end() :]
    return key


def rename_keys(config: dict[str, Any]) -> list[str]:
    """Move what stands under old keys of a saved config, in place, to the keys of today.

    Args:
        config: plain dictionaries and lists, interpolations unresolved.

    Returns:
        One line for each old key.
    """
    if all(renamed_key(key) == key for key, _ in walk(config)):
        return []
    # A relative interpolation would point elsewhere from another depth.
    _replace_texts(config, _INTERPOLATION, _absolute)
    notes = _make_losses_parts(config)
    for old, new in KEYS.items():
        keys = [key for key, _ in walk(config) if (found := _match(old, key)) and found.end() == len(key)]
        for key in keys:
            value = _holder(config, key).pop(key.rpartition(".")[2])
            if new is not None:
                target = renamed_key(key)
                _holder(config, target).setdefault(target.rpartition(".")[2], value)
        notes += [f"{old} is now {new}" if new else f"{old} is not needed any longer"] * bool(keys)
    _replace_texts(config, _MARKED, _relative)
    return notes


def _make_losses_parts(config: dict[str, Any]) -> list[str]:
    """Make losses that stood in the stages parts of their own, in place; return a line for each old key."""
    heads = config.get("model", {}).get("roi_heads", {})
    stages = heads.get("stages", []) if isinstance(heads, dict) else []
    moved: set[str] = set()
    for stage in stages:
        if "losses" in stage:
            continue
        old = {key: stage.pop(key) for key in (*_BOX_LOSSES, "constraints") if key in stage}
        moved |= set(old)
        constraints = old.pop("constraints", None)
        stage["losses"] = {"_target_": "htd.modeling.cascade.BoxLosses", **old}
        if constraints is None:
            continue
        stage["losses"] = {
            "_target_": "htd.modeling.tsd.TSDLosses",
            "box_losses": stage["losses"],
            "constraints": constraints,
        }
        head = stage["head"]
        if head["sibling"]["_target_"].endswith("NoSibling"):
            head["sibling"] = None
        else:
            head["sibling"] |= {"features": None, "init": locate("htd.modeling.tsd.kaiming_weight")}
    keys = [f"model.roi_heads.stages.*.{key}" for key in (*_BOX_LOSSES, "constraints") if key in moved]
    return [f"{key} is now {KEYS[key]}" for key in keys]


def _match(old: str, key: str) -> re.Match | None:
    pattern = re.escape(old).replace(r"\*\*\.", r"(?:[^.]+\.)*").replace(r"\*", r"([^.]+)")
    return re.match(rf"{pattern}(?![^.])", key)


def walk(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of everything below a dictionary or list."""
    members = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, member in members:
        yield f"{prefix}{name}", member
        yield from walk(member, f"{prefix}{name}.")


def _holder(config: dict[str, Any], key: str) -> Any:
    """Return the dictionary or list in which a key stands."""
    node: Any = config
    for part in key.split(".")[:-1]:
        node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
    return node


def _replace_texts(config: dict[str, Any], pattern: re.Pattern, new: Callable[[str, re.Match], str]) -> None:
    """Replace what matches in every text of a config by ``new(key of the text, match)``."""
    for key, value in list(walk(config)):
        if isinstance(value, str):
            holder, name = _holder(config, key), key.rpartition(".")[2]
            text = pattern.sub(partial(new, key), value)
            holder[int(name) if isinstance(holder, list) else name] = text


def _absolute(key: str, match: re.Match) -> str:
    dots, name = match.groups()
    if not dots:
        return match[0]
    return f"${{^{'.'.join([*key.split('.')[: -len(dots)], name])}}}"


def _relative(key: str, match: re.Match) -> str:
    mark, name = match[1], renamed_key(match[2]) or match[2]
    if not mark:
        return f"${{{name}}}"
    here, there = key.split("."), name.split(".")
    shared = len(os.path.commonprefix([here[:-1], there[:-1]]))
    return f"${{{'.' * (len(here) - shared)}{'.'.join(there[shared:])}}}"
