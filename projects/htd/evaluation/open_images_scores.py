"""Average precision by the rules of the Open Images Challenge, for all images and classes at once.

Symbols: I images, K classes, G objects, D detections. Image and class numbers start at 0. A *place* is one
class in one image: only objects and detections of one place meet.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

# Pairs of a detection and an object that are held at once: 100 bytes or so each.
_PAIRS = 500_000


@dataclass(frozen=True)
class BoxTable:
    """Boxes of many images, one a row.

    Attributes:
        images, classes: (N,) int64.
        boxes: (N, 4) float, XYXY in any one frame for objects and detections.
        values: (N,) of detections the score, float; of objects whether it is a group, bool.
    """

    images: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, chosen: np.ndarray) -> BoxTable:
        """Return the rows that a mask or indices choose."""
        return BoxTable(self.images[chosen], self.classes[chosen], self.boxes[chosen], self.values[chosen])


@dataclass(frozen=True)
class ClassScores:
    """The result for each class; NaN where there are no objects.

    Attributes:
        ap: (K,) float64, average precision.
        recall: (K,) float64, the share of the objects that all detections together find.
        mean_recall: (K,) float64, the mean of the recalls after each detection, which the published
            evaluator reports; 0 without detections.
        objects: (K,) int64, number of objects, expanded.
    """

    ap: np.ndarray
    recall: np.ndarray
    mean_recall: np.ndarray
    objects: np.ndarray


def expand(table: BoxTable, ancestors: np.ndarray, judged: np.ndarray | None = None) -> BoxTable:
    """Return one copy of each box for its own class and for each class above it.

    Args:
        table: N boxes.
        ancestors: (K, K) bool, row = class, columns = the class itself and its ancestors.
        judged: (I, K) bool, which classes to keep in which images; None for all.
    """
    counts = ancestors.sum(axis=1)
    above = np.nonzero(ancestors)[1]
    copies = counts[table.classes]
    rows = np.repeat(np.arange(len(table)), copies)
    first = np.cumsum(counts) - counts
    classes = above[np.repeat(first[table.classes], copies) + _count_up(copies)]
    if judged is not None:
        # Before the boxes are copied: most detections go here.
        kept = judged[table.images[rows], classes]
        rows, classes = rows[kept], classes[kept]
    return replace(table.rows(rows), classes=classes)


def score_classes(
    objects: BoxTable,
    detections: BoxTable,
    num_classes: int,
    *,
    iou_threshold: float = 0.5,
    group_share: float = 0.5,
    group_weight: float = 1.0,
) -> ClassScores:
    """Match detections with objects, place by place, and return AP and recall of each class.

    A detection is true if the object that it overlaps most has IoU >= ``iou_threshold`` and no better scored
    detection took it. One that is not true, but has at least ``group_share`` of its area in a group, is no
    detection at all; each group that was met so counts as found once, with the best score among those.
    Whatever is left is false. Groups count as objects. AP is the area under the precision made monotonous,
    over all recalls.

    Paper: A. Kuznetsova et al., The Open Images Dataset V4, section 4.2; Open Images Challenge 2018.

    Args:
        objects: expanded objects.
        detections: expanded detections of the classes that are judged in their images.
        num_classes: K.
        iou_threshold: IoU from which an object is found.
        group_share: part of a detection's area from which it lies in a group.
        group_weight: how much of an object the finding of a group is.
    """
    order = np.lexsort((-detections.values, _places(detections, num_classes)))
    detections = detections.rows(order)
    single, group = objects.rows(~objects.values), objects.rows(objects.values)
    best, found = _best(detections, single, num_classes, _iou)
    true = np.zeros(len(detections), bool)
    candidates = np.flatnonzero(found >= iou_threshold)
    # Rows of a place are in the order of their scores, so the first to name an object is the best.
    true[candidates[np.unique(best[candidates], return_index=True)[1]]] = True
    rest = np.flatnonzero(~true)
    met, share = _best(detections.rows(rest), group, num_classes, _share)
    inside = share >= group_share
    first = rest[inside][np.unique(met[inside], return_index=True)[1]]
    false = np.zeros(len(detections), bool)
    false[rest[~inside]] = True

    counted = np.concatenate((np.flatnonzero(true | false), first))
    weights = np.concatenate((true[true | false].astype(float), np.full(len(first), group_weight)))
    misses = np.concatenate((false[true | false].astype(float), np.zeros(len(first))))
    numbers = np.bincount(objects.classes, minlength=num_classes)
    return _curves(detections.rows(counted), weights, misses, numbers)


def _curves(table: BoxTable, weights: np.ndarray, misses: np.ndarray, numbers: np.ndarray) -> ClassScores:
    """Return the scores of each class from its detections' weights as true and as false ones."""
    order = np.lexsort((-table.values, table.classes))
    ends = np.searchsorted(table.classes[order], np.arange(len(numbers) + 1))
    ap, recall, mean_recall = np.full((3, len(numbers)), np.nan)
    for number in np.flatnonzero(numbers):
        rows = order[ends[number] : ends[number + 1]]
        hits, wrong = np.cumsum(weights[rows]), np.cumsum(misses[rows])
        recalls = hits / numbers[number]
        # A group of weight 0 is neither true nor false.
        precision = hits / np.maximum(hits + wrong, np.finfo(float).tiny)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        ap[number] = np.sum(np.diff(recalls, prepend=0.0) * envelope)
        recall[number] = recalls[-1] if len(rows) else 0.0
        mean_recall[number] = recalls.mean() if len(rows) else 0.0
    return ClassScores(ap, recall, mean_recall, numbers)


def _places(table: BoxTable, num_classes: int) -> np.ndarray:
    return table.images * num_classes + table.classes


def _best(detections: BoxTable, others: BoxTable, num_classes: int, overlap) -> tuple[np.ndarray, np.ndarray]:
    """Return the row of the box in the same place that each detection overlaps most, and by how much.

    Args:
        overlap: function of boxes (P, 4) and (P, 4) that returns (P,).

    Returns:
        (D,) int64 rows of ``others``, -1 where the place has none; (D,) float64, -1 there.
    """
    order = np.argsort(_places(others, num_classes), kind="stable")
    places, wanted = _places(others, num_classes)[order], _places(detections, num_classes)
    first = np.searchsorted(places, wanted, side="left")
    counts = np.searchsorted(places, wanted, side="right") - first
    rows, values = np.full(len(detections), -1), np.full(len(detections), -1.0)
    some = np.flatnonzero(counts)
    ends = np.cumsum(counts[some])
    for part in np.split(
        some, np.searchsorted(ends, np.arange(_PAIRS, ends[-1] if len(ends) else 0, _PAIRS))
    ):
        if not len(part):
            continue
        number = counts[part]
        left = np.repeat(part, number)
        right = order[np.repeat(first[part], number) + _count_up(number)]
        found = overlap(detections.boxes[left], others.boxes[right])
        starts = np.cumsum(number) - number
        values[part] = np.maximum.reduceat(found, starts)
        # Of equals the first.
        equal = np.flatnonzero(found == np.repeat(values[part], number))
        rows[part] = right[equal[np.searchsorted(equal, starts)]]
    return rows, values


def _count_up(counts: np.ndarray) -> np.ndarray:
    """Return 0, 1, ..., counts[0] - 1, 0, 1, ..., counts[1] - 1, ..."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def _intersection(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    return np.prod(np.maximum(sides, 0.0), axis=1)


def _area(boxes: np.ndarray) -> np.ndarray:
    return np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    shared = _intersection(a, b)
    union = _area(a) + _area(b) - shared
    return np.divide(shared, union, out=np.zeros_like(union), where=union > 0)


def _share(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return which part of the boxes ``a`` lies in the boxes ``b``."""
    shared, area = _intersection(a, b), _area(a)
    return np.divide(shared, area, out=np.zeros_like(area), where=area > 0)
