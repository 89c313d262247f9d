"""Puts a user's COCO-format files and their class count into a config."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig, ListConfig

from htd.data import read_categories
from htd.errors import UserError

_COUNT = re.compile(r"num_(\w+_)?classes")


@dataclass(frozen=True)
class OwnData:
    """Annotation file and image folder of training and validation data, None if not given."""

    train: tuple[str, str] | None = None
    val: tuple[str, str] | None = None


def apply_own_data(config: DictConfig, data: OwnData) -> str:
    """Point a config, in place, at the user's files and build its heads for their classes.

    Args:
        config: the training config, whose data nodes are ``dataloader.{train,test}.dataset``.
        data: the user's files. Training data without validation data turns evaluation off.

    Returns:
        One line that says which data and classes are used; "" if no file was given.

    Raises:
        UserError: the files are missing or disagree, or the config cannot take them.
    """
    files = {part: pair for part, pair in (("train", data.train), ("test", data.val)) if pair}
    if not files:
        return ""
    names = _classes(data)
    for part, (json_file, image_root) in files.items():
        dataset = config.dataloader[part].dataset
        if "json_file" not in dataset:
            raise UserError(f"the {part} data of this config are not in COCO's format; take a config of COCO")
        dataset.name = f"own_{part}_{Path(json_file).stem}"
        # A relative path in a config lies under DETECTRON2_DATASETS, one on the command line in this folder.
        dataset.json_file, dataset.image_root = os.path.abspath(json_file), os.path.abspath(image_root)
    if not set_num_classes(config.model, len(names)):
        raise UserError(
            "the config's model has no num_classes that could be set to the number of your classes"
        )
    line = f"own data: {counted(names)}"
    line += "".join(f"; {part} {json_file}" for part, (json_file, _) in files.items())
    if data.val is None:
        if config.dataloader.get("test") is not None:
            # The evaluator stays, so that the saved config evaluates as soon as it gets data.
            config.dataloader.test.dataset.update(json_file=None, image_root=None)
        line += "; without --val-json nothing is evaluated"
    return line


def _classes(data: OwnData) -> list[str]:
    """Return the class names in the files, after checking that the files are there and agree."""
    names = {}
    for part, pair in (("train", data.train), ("val", data.val)):
        if pair is None:
            continue
        json_file, images = pair
        if not Path(json_file).is_file():
            raise UserError(f"--{part}-json {json_file} is not a file")
        if not Path(images).is_dir():
            raise UserError(f"--{part}-images {images} is not a folder")
        names[part] = list(read_categories(os.path.abspath(json_file)))
        if not names[part]:
            raise UserError(f"--{part}-json {json_file} lists no categories")
    if len(names) == 2 and names["train"] != names["val"]:
        raise UserError(
            f"--train-json has {counted(names['train'])}, --val-json {counted(names['val'])}: "
            "both need the same categories with the same ids"
        )
    return next(iter(names.values()))


def counted(names: Sequence[str]) -> str:
    """Return the number of classes and the first of their names."""
    more = f", ... {len(names) - 12} more" if len(names) > 12 else ""
    return f"{len(names)} class{'es' if len(names) != 1 else ''} ({', '.join(names[:12])}{more})"


def class_counts(node: object, name: str = "num_classes") -> Iterator[tuple[DictConfig, int]]:
    """Yield each node under a model config that holds a literal number ``name``, with its value."""
    for holder, key, child in _entries(node):
        if key == name and isinstance(child._value(), int):
            yield holder, child._value()


def _entries(node: object) -> Iterator[tuple[DictConfig, str, object]]:
    """Yield all entries of the mappings under a node, interpolations unresolved."""
    if isinstance(node, DictConfig):
        for key in node:
            child = node._get_node(key)
            yield node, key, child
            yield from _entries(child)
    elif isinstance(node, ListConfig):
        for index in range(len(node)):
            yield from _entries(node._get_node(index))


def _count_names(model: DictConfig) -> list[str]:
    """Return what counts classes in a model's config: of objects, and of whatever else has classes."""
    return sorted({key for _, key, _ in _entries(model) if _COUNT.fullmatch(str(key))})


def set_num_classes(model: DictConfig, count: int) -> int:
    """Set every literal ``num_classes`` under a model config, in place, and return how many there were."""
    nodes = [node for node, _ in class_counts(model)]
    for node in nodes:
        node.num_classes = count
    return len(nodes)


def class_dependent(model: DictConfig) -> set[str]:
    """Return the names of the tensors whose shape depends on a number of classes.

    They are found by building the model twice without memory, the second time for one class more of
    each kind.
    """
    twin = DictConfig({"model": copy.deepcopy(model)}, flags={"allow_objects": True}).model
    for name in _count_names(model):
        for node, count in list(class_counts(twin, name)):
            node[name] = count + 1
    with torch.device("meta"):
        one, more = instantiate(model).state_dict(), instantiate(twin).state_dict()
    return {name for name in one if name in more and one[name].shape != more[name].shape}


def described_counts(model: DictConfig) -> str:
    """Return the numbers of classes in a model's config, as text."""
    found = {name: sorted({count for _, count in class_counts(model, name)}) for name in _count_names(model)}
    return ", ".join(f"{name}={'/'.join(map(str, counts))}" for name, counts in found.items() if counts)
