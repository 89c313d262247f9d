"""Segmentations of COCO files: which of them are valid, and their masks."""

from __future__ import annotations

from typing import Any

import pycocotools.mask as mask_util

# Rasterising takes memory along the outline, so a slip of some digits must not reach it.
_FARTHEST = 1e6


def valid_segmentation(segmentation: Any, size: tuple[int, int]) -> list | dict | None:
    """Return what is valid of a segmentation as it stands in an annotation file.

    Args:
        segmentation: polygons, an RLE, or anything else.
        size: (H, W) of the image.

    Returns:
        Polygons [x0, y0, x1, y1, ...] of at least three points, or a compressed RLE of the size of the
        image; something empty for neither.
    """
    if isinstance(segmentation, dict):
        return _valid_run_lengths(segmentation, size)
    if isinstance(segmentation, list):
        return [points for points in segmentation if _is_polygon(points)]
    return None


def rasterised(segmentation: list | dict, size: tuple[int, int]) -> dict:
    """Return a valid segmentation as one compressed RLE of size (H, W), all its polygons together."""
    if isinstance(segmentation, dict):
        return segmentation
    return mask_util.merge(mask_util.frPyObjects(segmentation, int(size[0]), int(size[1])))


def _is_polygon(points: Any) -> bool:
    if not isinstance(points, list) or len(points) < 6 or len(points) % 2:
        return False
    try:
        return all(-_FARTHEST < value < _FARTHEST for value in points)
    except TypeError:
        return False


def _valid_run_lengths(segmentation: dict, size: tuple[int, int]) -> dict | None:
    # pycocotools reads and writes beyond the mask where the runs do not add up to its pixels.
    counts = segmentation.get("counts")
    runs = _decompressed(counts) if isinstance(counts, str) and counts.isascii() else counts
    if segmentation.get("size") != list(size) or not isinstance(runs, list):
        return None
    if not all(type(run) is int and run >= 0 for run in runs) or sum(runs) != size[0] * size[1]:
        return None
    return segmentation if isinstance(counts, str) else mask_util.frPyObjects(segmentation, *map(int, size))


def _decompressed(counts: str) -> list[int]:
    """Return the run lengths of COCO's compressed text; runs of another length than meant for other texts.

    Characters from "0" on hold five bits each, the lowest first, and a sixth that says that more
    follow; the last one's fifth bit is the sign. From the fourth run on the text holds differences to
    the run before the last.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        code = ord(character) - 48
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            value -= (1 << shift) * bool(code & 16)
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs if shift == 0 else [*runs, -1]
