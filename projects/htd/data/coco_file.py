"""Reading and checking of COCO-format annotation files."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

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
        images, annotations: the entries of the file, with values of the kinds in ``_FIELDS``; ids of
            images and of annotations are unique. ``area`` and ``iscrowd`` may be missing or None.
        names: class names by category id, in the order of the ids; the k-th is class k.
    """

    path: Path
    images: list[dict]
    annotations: list[dict]
    names: dict[int, str]

    @property
    def classes(self) -> dict[int, int]:
        """The class, 0..K-1, of each category id."""
        return {category: number for number, category in enumerate(self.names)}


def read_coco(json_file: str | Path) -> CocoFile:
    """Read an annotation file.

    Args:
        json_file: absolute, or relative to ``datasets_root()``.

    Raises:
        UserError: the file is missing, is not COCO JSON, repeats an id, or an entry lacks a field or has
            a value of the wrong kind in it.
    """
    path = resolve(json_file)
    content = _load(path)
    images = _entries(path, content, "images")
    categories = _entries(path, content, "categories")
    # Files of test images have no annotations at all; they can still be run on.
    content.setdefault("annotations", [])
    annotations = _entries(path, content, "annotations")
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
    if path.is_dir():
        raise UserError(f"annotation file {path} is a folder; name the JSON file itself")
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


def _is_whole(value: Any) -> bool:
    return type(value) is int


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_id(value: Any) -> bool:
    return type(value) in (int, str)


def _is_length(value: Any) -> bool:
    return _is_number(value) and 0 < value < math.inf


def _is_text(value: Any) -> bool:
    return type(value) is str and value != ""


def _is_box(value: Any) -> bool:
    # Boxes with other than four numbers or infinite ones are common, and left out one by one.
    return type(value) is list and all(map(_is_number, value))


def _is_area(value: Any) -> bool:
    return value is None or _is_number(value)


def _is_flag(value: Any) -> bool:
    return value is None or (type(value) in (int, float, bool) and value in (0, 1))


class _Field(NamedTuple):
    """What a value has to be, in words and as a test; it may be missing where it is not ``needed``."""

    wanted: str
    fits: Callable[[Any], bool]
    needed: bool = True


_ID = _Field("a whole number or a text", _is_id)
_LENGTH = _Field("a number above 0", _is_length)
_FIELDS = {
    "images": {"id": _ID, "file_name": _Field("a text", _is_text), "height": _LENGTH, "width": _LENGTH},
    "categories": {"id": _Field("a whole number", _is_whole), "name": _Field("a text", _is_text)},
    "annotations": {
        "id": _ID,
        "image_id": _ID,
        "category_id": _Field("a whole number", _is_whole),
        "bbox": _Field("a list of numbers", _is_box),
        "area": _Field("a number", _is_area, needed=False),
        "iscrowd": _Field("0 or 1", _is_flag, needed=False),
    },
}


def _entries(path: Path, content: dict, kind: str) -> list[dict]:
    """Return one list of the file after checking its entries' fields and that ids are unique."""
    entries = content.get(kind)
    if not isinstance(entries, list):
        raise UserError(f"annotation file {path} has no list {kind!r}; it is not in COCO format")
    if kind == "categories" and not entries:
        raise UserError(f"annotation file {path} names no categories")
    for number, entry in enumerate(entries):
        if type(entry) is not dict:
            raise UserError(
                f"annotation file {path}: entry number {number} of {kind!r} is {_shown(entry)}, not an object"
            )
    for key, field in _FIELDS[kind].items():
        for number, entry in enumerate(entries):
            if key in entry and not field.fits(entry[key]):
                raise UserError(
                    f"annotation file {path}: entry {_name(number, entry)} of {kind!r} has {key} "
                    f"{_shown(entry[key])}; it has to be {field.wanted}"
                )
    needed = [key for key, field in _FIELDS[kind].items() if field.needed]
    for number, entry in enumerate(entries):
        missing = [key for key in needed if key not in entry]
        if missing:
            raise UserError(
                f"annotation file {path}: entry {_name(number, entry)} of {kind!r} lacks {', '.join(missing)}"
            )
    repeated = [key for key, count in Counter(entry["id"] for entry in entries).items() if count > 1]
    if repeated:
        raise UserError(
            f"annotation file {path}: {len(repeated)} ids of {kind!r} occur more than once "
            f"(first: {repeated[:5]}); give each entry its own id"
        )
    return entries


def _name(number: int, entry: dict) -> str:
    return f"id {_shown(entry['id'])}" if "id" in entry else f"number {number}"


def _shown(value: Any) -> str:
    """Return a value as it stands in the file; only the beginning of a long one."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}..."
