"""Which object each detection of a data set is nearest to, and by what IoU.

Boxes are XYXY in pixels of the original image, in float64; IoU is plain, without an additional pixel.
Symbols: D detections, G objects.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

# A detection with no such IoU with an object that lies so far in a crowd of its class is left out.
_OWN_OBJECT, _IN_CROWD = 0.5, 0.5


class Boxes(NamedTuple):
    """Boxes of a data set, one a row.

    Attributes:
        images: (N,) ids of their images, whole numbers.
        classes: (N,) classes, whole numbers.
        corners: (N, 4) XYXY in pixels.
    """

    images: np.ndarray
    classes: np.ndarray
    corners: np.ndarray


class Matches(NamedTuple):
    """What detections are matched with.

    Attributes:
        objects: (D,) row of the object with the largest IoU in the same image and class, -1 if there is
            none that overlaps.
        ious: (D,) float64 IoU with it, 0 if there is none.
        in_crowd: (D,) bool, whether the detection says nothing: it overlaps no object of its own by 0.5 and
            lies at least half in a crowd region of its class.
    """

    objects: np.ndarray
    ious: np.ndarray
    in_crowd: np.ndarray


def match(detections: Boxes, objects: Boxes, crowd: np.ndarray) -> Matches:
    """Match each detection with the object of its image and class that it overlaps most.

    Several detections can have the same object: how good a box is does not depend on others.

    Args:
        detections: D boxes.
        objects: G boxes in the order of their annotation ids: of equal IoUs the first counts.
        crowd: (G,) bool, whether it is a crowd region, which no detection is matched with.
    """
    count = len(detections.images)
    found = Matches(np.full(count, -1), np.zeros(count), np.zeros(count, dtype=bool))
    theirs = _rows_by_group(objects)
    for group, rows in _rows_by_group(detections).items():
        candidates = theirs.get(group, np.zeros(0, dtype=int))
        single, crowds = candidates[~crowd[candidates]], candidates[crowd[candidates]]
        if len(single):
            ious = _overlaps(detections.corners[rows], objects.corners[single], of_detection=False)
            best = ious.argmax(axis=1)
            found.ious[rows] = ious.max(axis=1)
            found.objects[rows] = np.where(found.ious[rows] > 0, single[best], -1)
        if len(crowds):
            inside = _overlaps(detections.corners[rows], objects.corners[crowds], of_detection=True)
            found.in_crowd[rows] = (inside.max(axis=1) >= _IN_CROWD) & (found.ious[rows] < _OWN_OBJECT)
    return found


def _rows_by_group(boxes: Boxes) -> dict[tuple[int, int], np.ndarray]:
    """Return the rows of each image and class, in their order."""
    if not len(boxes.images):
        return {}
    pairs = np.stack([boxes.images, boxes.classes], axis=1)
    groups, of_group, counts = np.unique(pairs, axis=0, return_inverse=True, return_counts=True)
    rows = np.argsort(of_group.reshape(-1), kind="stable")
    return dict(zip(map(tuple, groups.tolist()), np.split(rows, np.cumsum(counts)[:-1]), strict=True))


def _overlaps(boxes: np.ndarray, others: np.ndarray, *, of_detection: bool) -> np.ndarray:
    """Return intersections (B, O) over the unions or, as for crowds, over the areas of ``boxes``."""
    sides = [np.concatenate([x[:, :2], x[:, 2:] - x[:, :2]], axis=1) for x in (boxes, others)]
    return coco_mask.iou(*(x.astype(np.float64) for x in sides), [int(of_detection)] * len(others))
