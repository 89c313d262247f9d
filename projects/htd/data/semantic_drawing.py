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

from htd.data.coco import CocoFile, annotations_by_image, read_coco
from htd.data.semantic import RECORD, fingerprint, map_path, png_header, read_record
from htd.errors import UserError
from htd.files import write_file
from htd.segmentation import rasterized

_LOGGER = logging.getLogger(__name__)
_IGNORE, _FORMAT = 255, 1


def draw_semantic_maps(json_file: str | Path, output: str | Path) -> Path:
    """Write the semantic map of each image of a COCO file as an 8-bit PNG, or go on with that.

    The map of ``sub/name.jpg`` is ``sub/name.png``. Pixel values are the classes 0..K-1 in the order of
    the category ids and K for the background. Crowd regions are 255, no class; objects lie above them, and
    smaller objects above larger ones. Maps that exist already are kept: each is written as a whole or not at
    all, and the folder, which is returned, records what its maps were drawn from.
    """
    if not str(output):
        raise UserError("semantic maps: the name of the output folder is empty; give one (--output)")
    path, output = Path(json_file).absolute(), Path(output)
    content = read_coco(path)
    paths = _paths(content, output)
    skipped: Counter = Counter()
    annotations = annotations_by_image(content, masks=True, skipped=skipped)
    if len(content.names) > _IGNORE - 1:
        raise UserError(
            f"annotation file {path} has {len(content.names)} classes; semantic maps of 8 bits hold at most "
            "254 beside the background"
        )
    if not annotations:
        raise UserError(f"annotation file {path} has no object with a valid mask to draw")
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
                paths[image["id"]].parent.mkdir(parents=True, exist_ok=True)
                write_file(paths[image["id"]], cv2.imencode(".png", values)[1].tobytes())
    except OSError as error:
        raise UserError(f"semantic maps: folder {output} cannot be made ({error.strerror})") from error
    left_out = "".join(f"; left out {count} {what}" for what, count in skipped.items())
    _LOGGER.info("%s: %d maps drawn, %d were there%s", output, len(paths) - kept, kept, left_out)
    return output


def semantic_map(annotations: list[dict], size: tuple[int, int], background: int) -> np.ndarray:
    """Return the map (H, W) uint8 of an image's annotations; pixels without an object are background."""
    values = np.full(size, background, np.uint8)
    with_masks = [(item, rasterized(item["segmentation"], size)) for item in annotations]
    # Crowds first, then from the largest to the smallest; later ones hide earlier ones.
    with_masks.sort(key=lambda pair: (not pair[0]["iscrowd"], -int(mask_util.area(pair[1]))))
    for item, mask in with_masks:
        values[mask_util.decode(mask).astype(bool)] = _IGNORE if item["iscrowd"] else item["category_id"]
    return values


def _paths(content: CocoFile, output: Path) -> dict:
    """Return the path of each image's map by image id."""
    names: dict[str, str] = {}
    paths = {}
    for image in content.images:
        inside = os.path.normpath(map_path(Path(), image["file_name"]))
        if inside.split(os.sep)[0] == os.pardir:
            raise UserError(
                f"annotation file {content.path}: the semantic map of file_name {image['file_name']!r} would "
                f"lie outside of {output}; write the file names without '..'"
            )
        if inside in names:
            raise UserError(
                f"annotation file {content.path}: images {names[inside]} and {image['file_name']} would "
                f"share the semantic map {output / inside}; rename one of them"
            )
        names[inside] = image["file_name"]
        paths[image["id"]] = map_path(output, image["file_name"])
    return paths


def _claim(output: Path, record: dict) -> None:
    """Note in a new folder what its maps are drawn from, or check that it is the same."""
    if output.is_file():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(output))
    output.mkdir(parents=True, exist_ok=True)
    present = read_record(output)
    if present is None:
        # A killed process may have left a part of the record.
        if any(not path.name.startswith(f".{RECORD}.") for path in output.iterdir()):
            raise UserError(f"semantic maps: folder {output} holds other files; name a new or empty one")
        write_file(output / RECORD, json.dumps(record))
    elif present != record:
        raise UserError(
            f"semantic maps: folder {output} holds maps drawn from another file, or another state, of "
            f"{present['annotation_file']}; remove it or name another folder"
        )


def _is_drawn(path: Path, size: tuple[int, int]) -> bool:
    """Return whether a file is an 8-bit gray PNG of that size."""
    try:
        with path.open("rb") as file:
            return png_header(file.read(64)) == (size, 8, 0)
    except FileNotFoundError:
        return False
