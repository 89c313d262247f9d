"""Reading and checking of COCO-format annotation files."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from htd.errors import UserError


def datasets_root() -> Path:
    """Return the folder that relative data paths start from: $DETECTRON2_DATASETS or ``datasets``."""
    return Path(os.environ.get("DETECTRON2_DATASETS") or "datasets").expanduser()


def resolve(path: str | Path) -> Path:
    """Return a data path under ``datasets_root()``; an absolute path stays as it is."""
    return datasets_root() / Path(path).expanduser()


@dataclass(frozen=True)
class CocoFile:
    """The checked content of an annotation file.

    Attributes:
        path: where it lies.
        images, annotations: the entries of the file; image and annotation ids are unique, each
            image has a size and a file name.
        names: class names by category id, in the order of the ids; the k-th is class k.
    """

    path: Path
    images: list[dict]
    annotations: list[dict]
    names: dict[int, str]


def read_coco(json_file: str | Path) -> CocoFile:
    """Read an annotation file.

    Args:
        json_file: absolute, or relative to ``datasets_root()``.

    Raises:
        UserError: the file is missing, is not COCO JSON, or repeats an id.
    """
    path = resolve(json_file)
    content = _load(path)
    images = _entries(path, content, "images", ("id", "file_name", "height", "width"))
    categories = _entries(path, content, "categories", ("id", "name"))
    # Files of test images have no annotations at all; they can still be run on.
    content.setdefault("annotations", [])
    annotations = _entries(path, content, "annotations", ("id", "image_id", "category_id", "bbox"))
    names = {entry["id"]: entry["name"] for entry in sorted(categories, key=lambda entry: entry["id"])}
    return CocoFile(path, images, annotations, names)


def read_categories(json_file: str | Path) -> list[str]:
    """Return the class names of an annotation file in the order of the classes (ascending ids).

    Args:
        json_file: absolute, or relative to ``datasets_root()``.

    Raises:
        UserError: as ``read_coco``.
    """
    return list(read_coco(json_file).names.values())


def _load(path: Path) -> dict:
    if not path.is_file():
        raise UserError(
            f"annotation file {path} does not exist; put the data there, set DETECTRON2_DATASETS "
            f"(now {datasets_root()}) to the folder that holds them, or name another file"
        )
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(
            f"annotation file {path} is not JSON ({error}); was the download cut short?"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"annotation file {path} holds a {type(content).__name__}, not a COCO object")
    return content


def _entries(path: Path, content: dict, kind: str, keys: tuple[str, ...]) -> list[dict]:
    """Return one list of the file after checking that its entries have ``keys`` and unique ids."""
    entries = content.get(kind)
    if not isinstance(entries, list):
        raise UserError(f"annotation file {path} has no list {kind!r}; it is not in COCO format")
    if kind == "categories" and not entries:
        raise UserError(f"annotation file {path} names no categories")
    for number, entry in enumerate(entries):
        missing = [key for key in keys if key not in entry]
        if missing:
            name = f"id {entry['id']}" if "id" in entry else f"number {number}"
            raise UserError(f"annotation file {path}: entry {name} of {kind!r} lacks {', '.join(missing)}")
    repeated = [key for key, count in Counter(entry["id"] for entry in entries).items() if count > 1]
    if repeated:
        raise UserError(
            f"annotation file {path}: {len(repeated)} ids of {kind!r} occur more than once "
            f"(first: {repeated[:5]}); give each entry its own id"
        )
    return entries
