"""How well the scores of detections tell the IoUs of their boxes with the nearest objects.

Boxes are XYXY in pixels of the original image, in float64; IoU is plain, without an additional pixel.
Symbols: D detections, G objects, N boxes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

# A detection with no such IoU with an object that lies so far in a crowd of its class is left out.
_OWN_OBJECT, _IN_CROWD = 0.5, 0.5


class Boxes(NamedTuple):
    """Boxes (N, 4) of a data set, with the ids (N,) of their images and their classes (N,), whole numbers."""

    images: np.ndarray
    classes: np.ndarray
    corners: np.ndarray


class Matches(NamedTuple):
    """What detections are matched with, each (D,).

    A detection in a crowd says nothing: it overlaps no object of its own by 0.5 and lies at least half in a
    crowd region of its class.
    """

    objects: np.ndarray  # index of the object of its image and class with the largest IoU, -1 for none
    ious: np.ndarray  # float64 IoU with it, 0 if there is none
    in_crowd: np.ndarray  # bool


class Correlation(NamedTuple):
    """Correlation of score and IoU over n detections: of the values and of the ranks, NaN if not defined."""

    pearson: float
    spearman: float
    n: int


def match(detections: Boxes, objects: Boxes, crowd: np.ndarray) -> Matches:
    """Match each detection with the object of its image and class that it overlaps most.

    Several detections can have the same object: how good a box is does not depend on others.

    Args:
        detections: D boxes.
        objects: G boxes in the order of their annotation ids: of equal IoUs the first counts.
        crowd: (G,) bool, whether it is a crowd region, which no detection is matched with.
    """
    count = len(detections.images)
    matches = Matches(np.full(count, -1), np.zeros(count), np.zeros(count, dtype=bool))
    objects_of = _by_image_and_class(objects)
    for group, own in _by_image_and_class(detections).items():
        candidates = objects_of.get(group, np.zeros(0, dtype=int))
        single, crowds = candidates[~crowd[candidates]], candidates[crowd[candidates]]
        if len(single):
            ious = _overlaps(detections.corners[own], objects.corners[single], of_detection=False)
            best = ious.argmax(axis=1)
            matches.ious[own] = ious.max(axis=1)
            matches.objects[own] = np.where(matches.ious[own] > 0, single[best], -1)
        if len(crowds):
            inside = _overlaps(detections.corners[own], objects.corners[crowds], of_detection=True)
            matches.in_crowd[own] = (inside.max(axis=1) >= _IN_CROWD) & (matches.ious[own] < _OWN_OBJECT)
    return matches


def _by_image_and_class(boxes: Boxes) -> dict[tuple[int, int], np.ndarray]:
    """Return the indices of the boxes of each image and class, in their order."""
    if not len(boxes.images):
        return {}
    pairs = np.stack([boxes.images, boxes.classes], axis=1)
    groups, of_group, counts = np.unique(pairs, axis=0, return_inverse=True, return_counts=True)
    order = np.argsort(of_group.reshape(-1), kind="stable")
    return dict(zip(map(tuple, groups.tolist()), np.split(order, np.cumsum(counts)[:-1]), strict=True))


def _overlaps(boxes: np.ndarray, others: np.ndarray, *, of_detection: bool) -> np.ndarray:
    """Return intersections (B, O) over the unions or, as for crowds, over the areas of ``boxes``."""
    sides = [np.concatenate([x[:, :2], x[:, 2:] - x[:, :2]], axis=1) for x in (boxes, others)]
    return coco_mask.iou(*(x.astype(np.float64) for x in sides), [int(of_detection)] * len(others))


def correlate(scores: np.ndarray, ious: np.ndarray, *, least_iou: float = 0.1) -> Correlation:
    """Correlate scores (D,) with IoUs (D,) over the detections with at least that IoU.

    NaN where fewer than two detections are left, or all have the same score or the same IoU.
    """
    kept = ious >= least_iou
    scores, ious = np.asarray(scores, dtype=np.float64)[kept], np.asarray(ious, dtype=np.float64)[kept]
    return Correlation(pearson(scores, ious), pearson(ranks(scores), ranks(ious)), len(scores))


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Return Pearson's coefficient of (n,) and (n,), NaN if n < 2 or one of them is constant."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    x, y = x - x.mean(), y - y.mean()
    return float(np.clip((x * y).sum() / math.sqrt((x * x).sum() * (y * y).sum()), -1, 1))


def ranks(values: np.ndarray) -> np.ndarray:
    """Return the ranks (n,) of values (n,) from 1, lowest first; equal ones share the mean of theirs."""
    _, of_value, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[of_value.reshape(-1)]
