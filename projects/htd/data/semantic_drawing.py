"""Drawing of semantic maps from the masks of a COCO file."""

from __future__ import annotations

import errno
import json
import logging
import os
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as mask_util
from tqdm import tqdm

from htd.data.coco import annotations_by_image
from htd.data.coco_file import CocoFile, read_coco
from htd.data.semantic import png_header
from htd.data.semantic_files import RECORD, fingerprint, map_path, read_record
from htd.errors import UserError
from htd.segmentation import rasterized

_LOGGER = logging.getLogger(__name__)
_IGNORE, _FORMAT = 255, 1
_MAKE_ROOM = "; make room, then call this again: it goes on where it stopped"


def draw_semantic_maps(json_file: str | Path, output: str | Path) -> Path:
    """Write the semantic map of each image of a COCO file as an 8-bit PNG, or go on with that.

    The map of ``sub/name.jpg`` is ``sub/name.png``. Pixel values are the classes 0..K-1 in the order of
    the category ids and K for the background. Crowd regions are 255, no class; objects lie above them, and
    smaller objects above larger ones. Maps that are there already are left as they are: each appears at
    once, under its final name, and the folder notes what its maps were drawn from.

    Args:
        json_file: annotations with polygons or RLEs.
        output: folder of the maps; made if it is not there.

    Returns:
        The folder.

    Raises:
        UserError: there are more than 254 classes, two images would share a map, a map would lie outside of
            the folder, no object has a mask, the folder holds other files or maps of other annotations, or
            it cannot be written.
    """
    if not str(output):
        raise UserError("semantic maps: the name of the folder to write (--output) is empty; give one")
    path, output = Path(json_file).absolute(), Path(output)
    content = read_coco(path)
    paths = _paths(content, output)
    skipped: Counter = Counter()
    annotations = annotations_by_image(content, masks=True, skipped=skipped)
    _check(content, annotations)
    record = {"format": _FORMAT, "annotation_file": path.name, "sha256": fingerprint(path)}
    record["classes"] = list(content.names.values())
    try:
        _claim(output, record)
        kept = 0
        for image in tqdm(content.images, desc="semantic maps", unit="image"):
            size = (int(image["height"]), int(image["width"]))
            if _is_drawn(paths[image["id"]], size):
                kept += 1
            else:
                values = semantic_map(annotations.get(image["id"], []), size, background=len(content.names))
                _write(paths[image["id"]], cv2.imencode(".png", values)[1].tobytes())
    except OSError as error:
        cure = _MAKE_ROOM if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise UserError(f"semantic maps: folder {output} cannot be written ({error}){cure}") from error
    left_out = "".join(f"; left out {count} {what}" for what, count in skipped.items())
    _LOGGER.info("%s: %d maps drawn, %d were there%s", output, len(paths) - kept, kept, left_out)
    return output


def semantic_map(annotations: list[dict], size: tuple[int, int], background: int) -> np.ndarray:
    """Draw one map.

    Args:
        annotations: with ``segmentation``, ``category_id`` (the class) and ``iscrowd``.
        size: (H, W) of the image.
        background: value of pixels without an object.

    Returns:
        (H, W) uint8.
    """
    values = np.full(size, background, np.uint8)
    drawn = [(item, rasterized(item["segmentation"], size)) for item in annotations]
    # Crowds first, then from the largest to the smallest; later ones hide earlier ones.
    drawn.sort(key=_order)
    for item, mask in drawn:
        values[mask_util.decode(mask).astype(bool)] = _IGNORE if item["iscrowd"] else item["category_id"]
    return values


def _order(drawn: tuple[dict, dict]) -> tuple[bool, int]:
    item, mask = drawn
    return not item["iscrowd"], -int(mask_util.area(mask))


def _paths(content: CocoFile, output: Path) -> dict:
    """Return the path of each image's map by image id."""
    names: dict[str, str] = {}
    paths = {}
    for image in content.images:
        inside = os.path.normpath(map_path(Path(), image["file_name"]))
        if inside.split(os.sep)[0] == os.pardir:
            raise UserError(
                f"annotation file {content.path}: the semantic map of file_name {image['file_name']!r} would "
                f"lie outside of {output}; write the file names without '..', from a folder that holds all "
                "images"
            )
        path = map_path(output, image["file_name"])
        if inside in names:
            raise UserError(
                f"annotation file {content.path}: images {names[inside]} and {image['file_name']} would "
                f"share the semantic map {path}; rename one of them"
            )
        names[inside] = image["file_name"]
        paths[image["id"]] = path
    return paths


def _check(content: CocoFile, annotations: dict) -> None:
    if len(content.names) > _IGNORE - 1:
        raise UserError(
            f"annotation file {content.path} has {len(content.names)} classes; semantic maps of 8 bits hold "
            "at most 254 beside the background"
        )
    if not annotations:
        raise UserError(
            f"annotation file {content.path} has no object with a valid mask to draw; a config that needs "
            "boxes only is configs/htc/htc_box_r50_fpn_1x.py"
        )


def _claim(output: Path, record: dict) -> None:
    """Note in a new folder what its maps are drawn from, or check that it is the same."""
    if output.is_file():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(output))
    output.mkdir(parents=True, exist_ok=True)
    found = read_record(output)
    if found is None and any(path.name != f"{RECORD}.part" for path in output.iterdir()):
        raise UserError(
            f"semantic maps: folder {output} holds files of another origin; name one that is new or empty"
        )
    if found is None:
        _write(output / RECORD, json.dumps(record).encode())
    elif found != record:
        raise UserError(
            f"semantic maps: folder {output} holds maps drawn from another file, or another state, of "
            f"{found['annotation_file']}; remove it or name another folder"
        )


def _is_drawn(path: Path, size: tuple[int, int]) -> bool:
    """Return whether a file is an 8-bit gray PNG of that size."""
    try:
        with path.open("rb") as file:
            header = png_header(file.read(64))
    except FileNotFoundError:
        return False
    return header == (size, 8, 0)


def _write(path: Path, data: bytes) -> None:
    """Write a file that is there as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.part")
    partial.write_bytes(data)
    os.replace(partial, path)
