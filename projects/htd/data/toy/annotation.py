"""COCO annotations and stuff maps of toy images."""

from __future__ import annotations

import cv2
import numpy as np

from htd.data.toy.drawing import HEAP_LABEL, ToyImage
from htd.data.toy.layout import TEXTURES, ToyLayout

STUFF_OFFSET, UNLABELED = 91, 255
_ENLARGEMENT = 4


def annotations(layout: ToyLayout, image: ToyImage) -> list[dict]:
    """Return the COCO annotations of one image, without ``id`` and ``image_id``.

    Boxes [x, y, w, h] and masks are those of the visible pixels. Objects carry polygons; the crowd
    region is one uncompressed RLE with ``iscrowd`` 1.
    """
    found = []
    for label, item in enumerate(layout.objects, start=1):
        mask = (image.labels == label).astype(np.uint8)
        if mask.any():
            found.append(_annotation(item.category, mask, polygons(mask), crowd=0))
    heap = (image.labels == HEAP_LABEL).astype(np.uint8)
    if heap.any():
        found.append(_annotation(layout.heap[0].category, heap, run_lengths(heap), crowd=1))
    return found


def stuff_map(layout: ToyLayout, image: ToyImage) -> np.ndarray:
    """Return the semantic map (H, W) uint8 in the COCO-Stuff convention (pixel = category id - 1).

    Objects carry their category id - 1, the background 91 + its texture; the crowd region and the
    left strip of some images are 255 (no label).
    """
    values = np.full(256, UNLABELED, np.uint8)
    values[0] = STUFF_OFFSET + TEXTURES.index(layout.background.texture)
    for label, item in enumerate(layout.objects, start=1):
        values[label] = item.category - 1
    found = values[image.labels]
    found[:, : layout.background.strip] = UNLABELED
    return found


def polygons(mask: np.ndarray) -> list[list[float]]:
    """Trace a mask (H, W) uint8 as COCO polygons.

    The contour that OpenCV returns runs through pixel centers and so loses half a pixel on each
    side, a tenth of a small object's area; traced on the mask enlarged four times it loses an eighth.
    """
    size = (mask.shape[1] * _ENLARGEMENT, mask.shape[0] * _ENLARGEMENT)
    large = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [((contour.reshape(-1) + 0.5) / _ENLARGEMENT).tolist() for contour in contours]


def run_lengths(mask: np.ndarray) -> dict:
    """Return a mask (H, W) as an uncompressed COCO RLE (columns first, beginning with zeros)."""
    flat = mask.T.reshape(-1).astype(np.int8)
    changes = np.flatnonzero(np.diff(flat, prepend=0))
    counts = np.diff(changes, prepend=0, append=mask.size)
    return {"size": list(mask.shape), "counts": [int(count) for count in counts]}


def _annotation(category: int, mask: np.ndarray, segmentation, crowd: int) -> dict:
    return {
        "category_id": category,
        "bbox": [float(value) for value in cv2.boundingRect(mask)],
        "area": float(mask.sum()),
        "segmentation": segmentation,
        "iscrowd": crowd,
    }
