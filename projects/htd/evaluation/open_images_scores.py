"""Average precision on OpenImages, for all images and classes at once, and the rules by which it is judged.

Not every class was verified in every image. A detection of a class that was not is neither right nor wrong;
the rules differ in which classes they judge in which images.

Symbols: I images, K classes, G objects, D detections, N boxes. Image and class numbers start at 0. A *place*
is one class in one image: only objects and detections of one place meet.
Paper: The Open Images Dataset V4, section 4.2, https://arxiv.org/abs/1811.00982.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from htd.errors import UserError

# Pairs of a detection and an object that are held at once: 100 bytes or so each.
_PAIRS = 500_000


@dataclass(frozen=True)
class BoxTable:
    """Boxes of many images."""

    images: np.ndarray  # (N,) int64
    classes: np.ndarray  # (N,) int64
    boxes: np.ndarray  # (N, 4) float, XYXY, objects and detections in the same frame
    values: np.ndarray  # (N,) of detections the score, float; of objects whether it is a group, bool

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, chosen: np.ndarray) -> BoxTable:
        """Return the boxes that a mask or indices choose."""
        return BoxTable(self.images[chosen], self.classes[chosen], self.boxes[chosen], self.values[chosen])


@dataclass(frozen=True)
class ClassScores:
    """The result (K,) for each class; NaN where there are no objects."""

    ap: np.ndarray  # average precision
    recall: np.ndarray  # the share of the objects that all detections together find
    mean_recall: np.ndarray  # as the published evaluator reports: mean of the recalls after each detection
    objects: np.ndarray  # number of objects, expanded


@dataclass(frozen=True)
class OpenImagesTruth:
    """What is known of a data set's I images and K classes."""

    ids: list[str]  # (I,) identifiers of the images
    objects: BoxTable  # G annotated boxes in parts of the image's sides; ``values`` says which are groups
    positives: np.ndarray  # (V, 2) int64, image and class of labels verified as present
    negatives: np.ndarray  # (V, 2) int64, image and class of labels verified as absent
    ancestors: np.ndarray  # (K, K) bool: row = class, columns = the class itself and those above it


class PublishedRule:
    """The rule of TSD's published evaluator, for comparison with its numbers.

    In an image it judges the classes that have an object there, and the first class, which that evaluator
    sets in place of the labels that were verified as absent. So most false detections are not counted.

    Args:
        iou_threshold: IoU from which an object is found; 0.5 as published.
        group_share: part of a detection's area from which it lies in a group of objects; 0.5 as published.
        group_weight: how much finding a group counts, an object being 1; 1 as published. The group counts as
            an object in any case.
    """

    def __init__(self, iou_threshold: float = 0.5, group_share: float = 0.5, group_weight: float = 1.0):
        self.iou_threshold = _overlap("iou_threshold", iou_threshold)
        self.group_share = _overlap("group_share", group_share)
        self.group_weight = _checked(
            "group_weight", group_weight, "of at least 0", lambda number: 0 <= number < math.inf
        )

    def judged(self, truth: OpenImagesTruth, objects: BoxTable, num_images: int) -> np.ndarray:
        """Return which classes are judged in which images, (num_images, K) bool, of expanded objects."""
        judged = np.zeros((num_images, len(truth.ancestors)), bool)
        judged[objects.images, objects.classes] = True
        judged[:, 0] = True
        return judged


class OfficialRule:
    """The rule of the Open Images Challenge.

    In an image it judges the classes that have an object there, and those that people verified as present
    or absent. What is above a present class is present; what is below an absent class is absent.

    Args:
        iou_threshold, group_share: see :class:`PublishedRule`; both are 0.5 in the challenge.
    """

    group_weight = 1.0

    def __init__(self, iou_threshold: float = 0.5, group_share: float = 0.5):
        self.iou_threshold = _overlap("iou_threshold", iou_threshold)
        self.group_share = _overlap("group_share", group_share)

    def judged(self, truth: OpenImagesTruth, objects: BoxTable, num_images: int) -> np.ndarray:
        """Return which classes are judged in which images, as :meth:`PublishedRule.judged`."""
        judged = np.zeros((num_images, len(truth.ancestors)), bool)
        judged[objects.images, objects.classes] = True
        for labels, implied in ((truth.positives, truth.ancestors), (truth.negatives, truth.ancestors.T)):
            places, classes = np.nonzero(implied[labels[:, 1]])
            judged[labels[places, 0], classes] = True
        return judged


def score(truth: OpenImagesTruth, detections: BoxTable, rule: PublishedRule | OfficialRule) -> ClassScores:
    """Expand objects and detections along the hierarchy, drop what is not judged, and score the rest.

    Image numbers from I on are those of images that the data set lacks; there are no objects in them.
    """
    objects = expand(truth.objects, truth.ancestors)
    num_images = max(len(truth.ids), 1 + int(detections.images.max(initial=-1)))
    judged = rule.judged(truth, objects, num_images)
    kept = expand(detections, truth.ancestors, judged)
    return score_classes(
        objects,
        kept,
        len(truth.ancestors),
        iou_threshold=rule.iou_threshold,
        group_share=rule.group_share,
        group_weight=rule.group_weight,
    )


def _overlap(name: str, value: float) -> float:
    return _checked(name, value, "above 0 and at most 1", lambda number: 0 < number <= 1)


def _checked(name: str, value: float, wanted: str, allowed: Callable[[float], bool]) -> float:
    if not isinstance(value, (int, float)) or not allowed(value):
        raise UserError(f"OpenImages rule: {name} is {value}; it has to be a number {wanted}")
    return value


def expand(table: BoxTable, ancestors: np.ndarray, judged: np.ndarray | None = None) -> BoxTable:
    """Return one copy of each box for its own class and for each class above it.

    Args:
        table: N boxes.
        ancestors: (K, K) bool, see :class:`OpenImagesTruth`.
        judged: (I, K) bool, which classes to keep in which images; None for all.
    """
    counts = ancestors.sum(axis=1)
    above = np.nonzero(ancestors)[1]
    copies = counts[table.classes]
    originals = np.repeat(np.arange(len(table)), copies)
    first = np.cumsum(counts) - counts
    classes = above[np.repeat(first[table.classes], copies) + _count_up(copies)]
    if judged is not None:
        # Before the boxes are copied: most detections go here.
        kept = judged[table.images[originals], classes]
        originals, classes = originals[kept], classes[kept]
    return replace(table[originals], classes=classes)


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
    detection took it. One that is not true, but has at least ``group_share`` of its area in a group, is
    ignored; each such group counts as found once, with the best score among those detections. All others are
    false. Groups count as objects. AP is the area under the precision made monotonous, over all recalls.

    Args:
        objects: expanded objects.
        detections: expanded detections of the classes that are judged in their images.
        num_classes: K.
        iou_threshold, group_share, group_weight: see :class:`PublishedRule`.
    """
    order = np.lexsort((-detections.values, _places(detections, num_classes)))
    detections = detections[order]
    single, group = objects[~objects.values], objects[objects.values]
    best, ious = _best(detections, single, num_classes, _iou)
    true = np.zeros(len(detections), bool)
    candidates = np.flatnonzero(ious >= iou_threshold)
    # Detections of a place are in the order of their scores, so the first to name an object is the best.
    true[candidates[np.unique(best[candidates], return_index=True)[1]]] = True
    rest = np.flatnonzero(~true)
    met, share = _best(detections[rest], group, num_classes, _share)
    inside = share >= group_share
    first = rest[inside][np.unique(met[inside], return_index=True)[1]]
    false = np.zeros(len(detections), bool)
    false[rest[~inside]] = True

    counted = np.concatenate((np.flatnonzero(true | false), first))
    weights = np.concatenate((true[true | false].astype(float), np.full(len(first), group_weight)))
    misses = np.concatenate((false[true | false].astype(float), np.zeros(len(first))))
    numbers = np.bincount(objects.classes, minlength=num_classes)
    return _curves(detections[counted], weights, misses, numbers)


def _curves(table: BoxTable, weights: np.ndarray, misses: np.ndarray, numbers: np.ndarray) -> ClassScores:
    """Return the scores of each class from its detections' weights as true and as false ones."""
    order = np.lexsort((-table.values, table.classes))
    ends = np.searchsorted(table.classes[order], np.arange(len(numbers) + 1))
    ap, recall, mean_recall = np.full((3, len(numbers)), np.nan)
    for number in np.flatnonzero(numbers):
        own = order[ends[number] : ends[number + 1]]
        hits, wrong = np.cumsum(weights[own]), np.cumsum(misses[own])
        recalls = hits / numbers[number]
        # A group of weight 0 is neither true nor false.
        precision = hits / np.maximum(hits + wrong, np.finfo(float).tiny)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        ap[number] = np.sum(np.diff(recalls, prepend=0.0) * envelope)
        recall[number] = recalls[-1] if len(own) else 0.0
        mean_recall[number] = recalls.mean() if len(own) else 0.0
    return ClassScores(ap, recall, mean_recall, numbers)


def _places(table: BoxTable, num_classes: int) -> np.ndarray:
    return table.images * num_classes + table.classes


def _best(detections: BoxTable, others: BoxTable, num_classes: int, overlap) -> tuple[np.ndarray, np.ndarray]:
    """Return the index (D,) of the box in the same place that each detection overlaps most, and by how much.

    Both are -1 where the place has none. ``overlap`` is a function of boxes (P, 4) and (P, 4).
    """
    order = np.argsort(_places(others, num_classes), kind="stable")
    places, wanted = _places(others, num_classes)[order], _places(detections, num_classes)
    first = np.searchsorted(places, wanted, side="left")
    counts = np.searchsorted(places, wanted, side="right") - first
    indices, values = np.full(len(detections), -1), np.full(len(detections), -1.0)
    some = np.flatnonzero(counts)
    ends = np.cumsum(counts[some])
    limits = np.arange(_PAIRS, ends[-1] if len(ends) else 0, _PAIRS)
    for part in np.split(some, np.searchsorted(ends, limits)):
        if not len(part):
            continue
        number = counts[part]
        left = np.repeat(part, number)
        right = order[np.repeat(first[part], number) + _count_up(number)]
        overlaps = overlap(detections.boxes[left], others.boxes[right])
        starts = np.cumsum(number) - number
        values[part] = np.maximum.reduceat(overlaps, starts)
        # Of equals the first.
        equal = np.flatnonzero(overlaps == np.repeat(values[part], number))
        indices[part] = right[equal[np.searchsorted(equal, starts)]]
    return indices, values


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
