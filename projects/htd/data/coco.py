"""Data sets in COCO format: the checked annotation file, and Detectron2's list of dictionaries."""

from __future__ import annotations

import json
import logging
import math
import os
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils.logger import log_first_n

from htd.data.semantic import check_maps, map_path
from htd.errors import UserError
from htd.segmentation import valid_segmentation

_NO_MASK = "objects without a valid mask"


def datasets_root() -> Path:
    """Return the folder that relative data paths start from: $DETECTRON2_DATASETS or ``datasets``."""
    return Path(os.environ.get("DETECTRON2_DATASETS") or "datasets").expanduser()


def resolve(path: str | Path) -> Path:
    """Return a data path under ``datasets_root()``; an absolute path stays as it is."""
    return datasets_root() / Path(path).expanduser()


def coco_dataset(
    name: str,
    json_file: str,
    image_root: str,
    *,
    filter_empty: bool = False,
    min_image_side: int = 0,
    masks: bool = False,
    semantic_root: str | None = None,
) -> list[dict]:
    """Load a COCO-format data set and register its name in Detectron2's catalogs if it is new.

    Paths are absolute or relative to $DETECTRON2_DATASETS. As in the published code, unusable boxes (a side
    below one pixel, no area, outside the image, not finite) and annotations of categories or images that the
    file does not list are skipped; the log counts them.

    Args:
        name: name of the data set in Detectron2's catalogs.
        json_file: annotation file.
        image_root: folder of the images.
        filter_empty: leave out images without a usable annotation that is no crowd region.
        min_image_side: leave out images with a side below this many pixels.
        masks: also keep segmentations; objects without a valid one are then skipped.
        semantic_root: folder of the semantic maps, needed for training only: PNGs with the names, and in the
            sub-folders, of the images.

    Returns:
        One dictionary per image with ``file_name``, ``image_id``, ``height``, ``width`` and
        ``annotations``: ``id``, ``bbox`` (XYWH, pixels of the original image), ``bbox_mode``,
        ``category_id`` (class 0..K-1 in the order of the ids), ``iscrowd`` and maybe ``segmentation``.
        With semantic maps also ``sem_seg_file_name``; with maps that tools/draw_semantic_maps.py has drawn,
        ``sem_seg_drawn_classes``, the number of their classes.
    """
    content = read_coco(json_file)
    skipped: Counter = Counter()
    annotations = annotations_by_image(content, masks, skipped)
    if not annotations and any(cause.startswith(_NO_MASK) for cause in skipped):
        raise UserError(
            f"data set {name}: no annotation of {content.path} has a valid segmentation; take a config "
            "without masks, such as configs/htc/htc_box_r50_fpn_1x.py"
        )
    folder = resolve(image_root)
    records = []
    for image in content.images:
        record = {
            "file_name": str(folder / image["file_name"]),
            "image_id": image["id"],
            "height": image["height"],
            "width": image["width"],
            "annotations": annotations[image["id"]],
        }
        if filter_empty and all(item["iscrowd"] for item in record["annotations"]):
            skipped["images without objects"] += 1
        elif min(record["height"], record["width"]) < min_image_side:
            skipped[f"images with a side below {min_image_side}"] += 1
        else:
            records.append(record)
    _check_images(name, content.path, folder, records, skipped)
    paths = {"json_file": content.path, "image_root": folder}
    if semantic_root is not None:
        paths["sem_seg_root"] = resolve(semantic_root)
        _add_semantic_maps(name, paths["sem_seg_root"], records, content)
    _report(name, records, content, skipped)
    options = {"filter_empty": filter_empty, "min_image_side": min_image_side}
    options |= {"masks": masks, "semantic_root": semantic_root}
    entries = {key: str(path) for key, path in paths.items()} | {
        "evaluator_type": "coco",
        "thing_classes": list(content.names.values()),
        "thing_dataset_id_to_contiguous_id": content.classes,
    }
    register(name, entries, partial(coco_dataset, name, json_file, image_root, **options))
    return records


def annotations_by_image(content: CocoFile, masks: bool, skipped: Counter) -> dict:
    """Return the usable annotations of each image, as ``coco_dataset`` describes them.

    Args:
        content: the annotation file.
        masks: keep segmentations, and leave out objects without a valid one.
        skipped: numbers of annotations that were left out are added here, by reason.

    Returns:
        Lists of annotations by image id, [] for an image without any.
    """
    classes = content.classes
    sizes = {image["id"]: (image["height"], image["width"]) for image in content.images}
    by_image, maskless = defaultdict(list), []
    for entry in content.annotations:
        size = sizes.get(entry["image_id"])
        if size is None:
            skipped["annotations of images that are not listed"] += 1
            continue
        if entry["category_id"] not in classes:
            skipped["annotations of categories that are not listed"] += 1
            continue
        if not _usable(entry, size):
            skipped["unusable boxes"] += 1
            continue
        item = {
            "id": entry["id"],
            "bbox": [float(value) for value in entry["bbox"]],
            "bbox_mode": BoxMode.XYWH_ABS,
            "category_id": classes[entry["category_id"]],
            "iscrowd": int(entry.get("iscrowd") or 0),
        }
        if masks:
            item["segmentation"] = valid_segmentation(entry.get("segmentation"), size)
            if not item["segmentation"]:
                maskless.append(entry["id"])
                continue
        by_image[entry["image_id"]].append(item)
    if maskless:
        skipped[f"{_NO_MASK} (first ids: {', '.join(map(str, maskless[:3]))})"] += len(maskless)
    return by_image


def _usable(entry: dict, size: tuple[int, int]) -> bool:
    """Return whether a box has at least one pixel per side, an area, and meets the image (H, W)."""
    box = entry["bbox"]
    if len(box) != 4 or not all(math.isfinite(value) for value in box):
        return False
    x, y, w, h = box
    across = min(x + w, size[1]) - max(x, 0)
    down = min(y + h, size[0]) - max(y, 0)
    area = entry.get("area")
    return w >= 1 and h >= 1 and (area is None or area > 0) and across > 0 and down > 0


def _add_semantic_maps(name: str, root: Path, records: list[dict], content: CocoFile) -> None:
    paths = {image["id"]: map_path(root, image["file_name"]) for image in content.images}
    used = [paths[record["image_id"]] for record in records]
    drawn = check_maps(name, root, used, list(content.names.values()), content.path)
    for record, path in zip(records, used, strict=True):
        record["sem_seg_file_name"] = str(path)
        if drawn is not None:
            record["sem_seg_drawn_classes"] = drawn


def _check_images(name: str, path: Path, folder: Path, records: list[dict], skipped: Counter) -> None:
    if not folder.is_dir():
        raise UserError(
            f"data set {name}: image folder {folder} does not exist; name another, or set "
            "DETECTRON2_DATASETS to the folder that holds it"
        )
    if not records:
        left_out = "; ".join(f"{count} {what}" for what, count in skipped.items()) or "the file lists none"
        raise UserError(f"data set {name}: no image of {path} is left ({left_out})")
    first = Path(records[0]["file_name"])
    if not first.is_file():
        raise UserError(
            f"data set {name}: image {first} of {path} does not exist; is {folder} the right image folder?"
        )


def _report(name: str, records: list[dict], content: CocoFile, skipped: Counter) -> None:
    num_objects = sum(len(record["annotations"]) for record in records)
    left_out = "".join(f"; left out {count} {what}" for what, count in skipped.items())
    messages = [f"data set {name}: {len(records)} images, {num_objects} annotations{left_out}"]
    ids = list(content.names)
    if ids != list(range(1, len(ids) + 1)):
        messages.insert(0, f"data set {name}: category ids {ids} are mapped to classes 0..{len(ids) - 1}")
    for message in messages:
        log_first_n(logging.INFO, message, key="message", name=__name__)


def _beginning(value: Any) -> str:
    """Return a path, or the beginning of a list of names."""
    text = str(value)
    return f"{text[:80]}..." if isinstance(value, (list, tuple)) and len(text) > 80 else text


def register(name: str, entries: dict[str, Any], load: partial) -> None:
    """Put a data set's name and entries into Detectron2's catalogs, or check that they agree."""

    def comparable(value: Any) -> Any:
        return Path(value).expanduser().resolve() if isinstance(value, (str, Path)) else value

    metadata = MetadataCatalog.get(name)
    for key, value in entries.items():
        known = metadata.get(key)
        if known is not None and comparable(known) != comparable(value):
            raise UserError(
                f"data set name {name!r} has another {key}, {_beginning(known)}, not {_beginning(value)}; "
                "choose another name"
            )
    metadata.set(**{key: value for key, value in entries.items() if metadata.get(key) is None})
    if name not in DatasetCatalog.list():
        DatasetCatalog.register(name, load)


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
    """Read an annotation file, given absolute or relative to ``datasets_root()``."""
    path = resolve(json_file)
    if path.is_dir():
        raise UserError(f"annotation file {path} is a folder; name the JSON file itself")
    if not path.is_file():
        raise UserError(
            f"annotation file {path} does not exist; name another, or set DETECTRON2_DATASETS (now "
            f"{datasets_root()}) to the folder that holds it"
        )
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(
            f"annotation file {path} is not JSON ({error}); was the download cut short?"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"annotation file {path} holds a {type(content).__name__}, not a COCO object")
    images = _entries(path, content, "images")
    categories = _entries(path, content, "categories")
    # Files of test images have no annotations at all; they can still be run on.
    content.setdefault("annotations", [])
    annotations = _entries(path, content, "annotations")
    names = {entry["id"]: entry["name"] for entry in sorted(categories, key=lambda entry: entry["id"])}
    return CocoFile(path, images, annotations, names)


def read_categories(json_file: str | Path) -> list[str]:
    """Return the class names of an annotation file (see ``read_coco``) in the order of the classes."""
    return list(read_coco(json_file).names.values())


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


_ID = ("a whole number or a text", lambda value: type(value) in (int, str))
_WHOLE = ("a whole number", lambda value: type(value) is int)
_LENGTH = ("a number above 0", lambda value: _is_number(value) and 0 < value < math.inf)
_TEXT = ("a text", lambda value: type(value) is str and value != "")
# Boxes with other than four numbers or infinite ones are common, and left out one by one.
_BOX = ("a list of numbers", lambda value: type(value) is list and all(map(_is_number, value)))
_AREA = ("a number", lambda value: value is None or _is_number(value))
_FLAG = ("0 or 1", lambda value: value is None or (isinstance(value, (int, float)) and value in (0, 1)))
# What a value has to be, in words and as a test.
_FIELDS = {
    "images": {"id": _ID, "file_name": _TEXT, "height": _LENGTH, "width": _LENGTH},
    "categories": {"id": _WHOLE, "name": _TEXT},
    "annotations": {"id": _ID, "image_id": _ID, "category_id": _WHOLE, "bbox": _BOX},
}
_OPTIONAL = {"annotations": {"area": _AREA, "iscrowd": _FLAG}}


def _entries(path: Path, content: dict, kind: str) -> list[dict]:
    """Return one list of the file after checking its entries' fields and that ids are unique."""
    entries = content.get(kind)
    if not isinstance(entries, list):
        raise UserError(f"annotation file {path} has no list {kind!r}; it is not in COCO format")
    if kind == "categories" and not entries:
        raise UserError(f"annotation file {path} names no categories")
    fields = (_FIELDS[kind] | _OPTIONAL.get(kind, {})).items()
    for number, entry in enumerate(entries):
        problem = None
        if type(entry) is not dict:
            problem = f"is {_shown(entry)}, not an object"
        else:
            for key, (wanted, fits) in fields:
                if key in entry and not fits(entry[key]):
                    problem = f"has {key} {_shown(entry[key])}; it has to be {wanted}"
                elif key not in entry and key in _FIELDS[kind]:
                    problem = f"lacks {key}"
        if problem:
            with_id = type(entry) is dict and "id" in entry
            name = f"id {_shown(entry['id'])}" if with_id else f"number {number}"
            raise UserError(f"annotation file {path}: entry {name} of {kind!r} {problem}")
    repeated = [key for key, count in Counter(entry["id"] for entry in entries).items() if count > 1]
    if repeated:
        raise UserError(
            f"annotation file {path}: {len(repeated)} ids of {kind!r} occur more than once "
            f"(first: {repeated[:5]}); give each entry its own id"
        )
    return entries


def _shown(value: Any) -> str:
    """Return a value as it stands in the file; only the beginning of a long one."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}..."
