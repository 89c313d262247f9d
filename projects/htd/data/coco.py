"""Data sets in COCO format as Detectron2's list of dictionaries."""

from __future__ import annotations

import logging
import math
from collections import Counter, defaultdict
from functools import partial
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils.logger import log_first_n

from htd.data.coco_file import CocoFile, read_coco, resolve
from htd.data.semantic_files import check_maps, map_path
from htd.errors import UserError
from htd.segmentation import valid_segmentation

_NO_MASK = "objects without a valid mask"


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

    Boxes that are unusable (a side below one pixel, no area, outside the image, not finite) and
    annotations of categories or images that the file does not list are skipped with a count, as in
    the published code.

    Args:
        name: name of the data set in Detectron2's catalogs.
        json_file: annotation file, absolute or relative to $DETECTRON2_DATASETS.
        image_root: folder of the images, absolute or relative to the same.
        filter_empty: leave out images without a usable annotation that is no crowd region.
        min_image_side: leave out images with a side below this many pixels.
        masks: also keep segmentations; objects without a valid one are then skipped.
        semantic_root: folder of the images' semantic maps, absolute or relative to $DETECTRON2_DATASETS:
            PNGs with the names, and in the sub-folders, of the images. Only training needs them.

    Returns:
        One dictionary an image with ``file_name``, ``image_id``, ``height``, ``width`` and
        ``annotations``: ``id``, ``bbox`` (XYWH, pixels of the original image), ``bbox_mode``,
        ``category_id`` (class 0..K-1 in the order of the ids), ``iscrowd`` and maybe ``segmentation``.
        With semantic maps also ``sem_seg_file_name``; with maps that tools/draw_semantic_maps.py has drawn,
        ``sem_seg_drawn_classes``, the number of their classes.

    Raises:
        UserError: a file is missing or faulty, the name belongs to other files, no object has a mask
            though masks are wanted, or no image is left.
    """
    content = read_coco(json_file)
    _report_mapping(name, content.classes)
    skipped: Counter = Counter()
    annotations = annotations_by_image(content, masks, skipped)
    if not annotations and any(reason.startswith(_NO_MASK) for reason in skipped):
        raise UserError(
            f"data set {name}: no annotation of {content.path} has a valid segmentation; a config that "
            "needs boxes only is configs/htc/htc_box_r50_fpn_1x.py"
        )
    folder = resolve(image_root)
    records = []
    for image in content.images:
        record = _record(image, folder, annotations[image["id"]])
        if filter_empty and all(item["iscrowd"] for item in record["annotations"]):
            skipped["images without objects"] += 1
        elif min(record["height"], record["width"]) < min_image_side:
            skipped[f"images with a side below {min_image_side}"] += 1
        else:
            records.append(record)
    _check_images(name, content.path, folder, records, skipped)
    folders = {"image_root": folder}
    if semantic_root is not None:
        folders["sem_seg_root"] = resolve(semantic_root)
        _add_semantic_maps(name, folders["sem_seg_root"], records, content)
    _report(name, records, skipped)
    options = {"filter_empty": filter_empty, "min_image_side": min_image_side, "masks": masks}
    options["semantic_root"] = semantic_root
    _register(name, content, folders, partial(coco_dataset, name, json_file, image_root, **options))
    return records


def _record(image: dict, folder: Path, annotations: list[dict]) -> dict:
    return {
        "file_name": str(folder / image["file_name"]),
        "image_id": image["id"],
        "height": image["height"],
        "width": image["width"],
        "annotations": annotations,
    }


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
    found, maskless = defaultdict(list), []
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
        found[entry["image_id"]].append(item)
    if maskless:
        skipped[f"{_NO_MASK} (first ids: {', '.join(map(str, maskless[:3]))})"] += len(maskless)
    return found


def _usable(entry: dict, size: tuple[int, int]) -> bool:
    """Return whether a box has at least one pixel a side, an area, and meets the image (H, W)."""
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
            f"data set {name}: image folder {folder} does not exist; put the images there, set "
            "DETECTRON2_DATASETS to the folder that holds them, or name another folder"
        )
    if not records:
        left_out = "; ".join(f"{count} {what}" for what, count in skipped.items()) or "the file lists none"
        raise UserError(f"data set {name}: no image of {path} is left ({left_out})")
    first = Path(records[0]["file_name"])
    if not first.is_file():
        raise UserError(
            f"data set {name}: image {first} of {path} does not exist; is {folder} the folder that "
            "its file names start from?"
        )


def _report_mapping(name: str, classes: dict[int, int]) -> None:
    ids = list(classes)
    if ids != list(range(1, len(ids) + 1)):
        message = f"data set {name}: category ids {ids} are mapped to classes 0..{len(ids) - 1} in this order"
        log_first_n(logging.INFO, message, key="message", name=__name__)


def _report(name: str, records: list[dict], skipped: Counter) -> None:
    objects = sum(len(record["annotations"]) for record in records)
    left_out = "".join(f"; left out {count} {what}" for what, count in skipped.items())
    message = f"data set {name}: {len(records)} images, {objects} annotations{left_out}"
    log_first_n(logging.INFO, message, key="message", name=__name__)


def _register(name: str, content: CocoFile, folders: dict[str, Path], load: partial) -> None:
    """Put name, files and classes into Detectron2's catalogs, or check that they agree."""
    metadata = MetadataCatalog.get(name)
    paths = {"json_file": content.path} | folders
    for key, path in paths.items():
        known = metadata.get(key)
        if known is not None and Path(known).expanduser().resolve() != path.resolve():
            raise UserError(
                f"data set name {name!r} already belongs to {known}, not to {path}; choose another name"
            )
    entries = {key: str(path) for key, path in paths.items()} | {
        "evaluator_type": "coco",
        "thing_classes": list(content.names.values()),
        "thing_dataset_id_to_contiguous_id": content.classes,
    }
    for key in ("thing_classes", "thing_dataset_id_to_contiguous_id"):
        if metadata.get(key, entries[key]) != entries[key]:
            raise UserError(
                f"data set name {name!r} already stands for other classes than those of "
                f"{content.path}; choose another name"
            )
    metadata.set(**{key: value for key, value in entries.items() if metadata.get(key) is None})
    if name not in DatasetCatalog.list():
        DatasetCatalog.register(name, load)
