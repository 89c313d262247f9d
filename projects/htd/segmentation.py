"""Segmentations of COCO files: which of them are valid, and their masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pycocotools.mask as mask_util

# Rasterizing takes memory along the outline, so a slip of some digits must not reach it.
_FARTHEST = 1e6
# Characters of a run in compressed text: 35 bits, and pycocotools keeps 32.
_LONGEST = 7


def valid_segmentation(segmentation: Any, size: tuple[int, int]) -> list | dict | None:
    """Return what is valid of a segmentation as it stands in an annotation file.

    Args:
        segmentation: polygons, an RLE, or anything else.
        size: (H, W) of the image; of fractions the whole pixels count.

    Returns:
        Polygons [x0, y0, x1, y1, ...] of at least three points, or an RLE, compressed to text, of the
        size of the image; something empty for neither.
    """
    if isinstance(segmentation, dict):
        return _valid_run_lengths(segmentation, size)
    if isinstance(segmentation, list):
        return [points for points in segmentation if _is_polygon(points)]
    return None


def rasterized(segmentation: list | dict, size: tuple[int, int]) -> dict:
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
    height, width = map(int, size)
    counts = segmentation.get("counts")
    if segmentation.get("size") != [height, width]:
        return None
    if isinstance(counts, str):
        runs = _decompressed(counts)
        fits = runs.size and runs.min() >= 0 and int(runs.sum()) == height * width
    else:
        fits = isinstance(counts, list) and all(type(run) is int and run >= 0 for run in counts)
        fits = fits and sum(counts) == height * width
    if not fits:
        return None
    if isinstance(counts, list):
        counts = mask_util.frPyObjects(segmentation, height, width)["counts"].decode()
    return {"size": [height, width], "counts": counts}


def _decompressed(text: str) -> np.ndarray:
    """Return the run lengths (R,) int64 of COCO's compressed text; none for a text that is not such.

    Characters from "0" on hold five bits each, the lowest first, and a sixth that says that more
    follow; the last one's fifth bit is the sign. From the fourth run on the text holds differences to
    the run before the last.
    """
    codes = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8).astype(np.int64) - ord("0")
    ends = np.flatnonzero((codes & 32) == 0)
    if not len(ends) or ends[-1] != len(codes) - 1 or codes.min() < 0 or codes.max() > 63:
        return np.zeros(0, np.int64)
    starts = np.append(0, ends[:-1] + 1)
    lengths = ends - starts + 1
    if lengths.max() > _LONGEST:
        return np.zeros(0, np.int64)
    shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
    runs = np.add.reduceat((codes & 31) << shifts, starts)
    runs -= (codes[ends] >> 4 & 1) << 5 * lengths
    runs[1::2], runs[2::2] = np.cumsum(runs[1::2]), np.cumsum(runs[2::2])
    return runs
