"""The rules by which detections on OpenImages are judged: which classes count in which images.

People did not look for every class in every image. A detection of a class that nobody looked for is neither
right nor wrong; the rules differ in what they take for looked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from htd.errors import UserError
from htd.evaluation.open_images_scores import BoxTable, ClassScores, expand, score_classes


@dataclass(frozen=True)
class OpenImagesTruth:
    """What is known of a data set's I images and K classes.

    Attributes:
        ids: (I,) identifiers of the images.
        objects: G annotated boxes in parts of the image's sides; ``values`` says which are groups.
        positives, negatives: (V, 2) int64, image and class of labels verified as present, as absent.
        ancestors: (K, K) bool: row = class, columns = the class itself and those above it.
    """

    ids: list[str]
    objects: BoxTable
    positives: np.ndarray
    negatives: np.ndarray
    ancestors: np.ndarray


class PublishedRule:
    """The rule of TSD's published evaluator, for comparison with its numbers.

    In an image those classes count that have an object there, and the first class, which that evaluator
    sets in place of the labels that were verified as absent. So most false detections are not counted.

    Args:
        iou_threshold: IoU from which an object is found; 0.5 as published.
        group_share: part of a detection's area from which it lies in a group of objects; 0.5 as published.
        group_weight: how much of an object the finding of a group of objects is; 1 as published. The group
            counts as an object in any case.

    Raises:
        UserError: one of the first two is not above 0 and at most 1, or the third no number of at least 0.
    """

    def __init__(self, iou_threshold: float = 0.5, group_share: float = 0.5, group_weight: float = 1.0):
        self.iou_threshold = _overlap("iou_threshold", iou_threshold)
        self.group_share = _overlap("group_share", group_share)
        self.group_weight = _checked(
            "group_weight", group_weight, "of at least 0", lambda number: 0 <= number < math.inf
        )

    def judged(self, truth: OpenImagesTruth, objects: BoxTable, num_images: int) -> np.ndarray:
        """Return which classes count in which images, (images, K) bool.

        Args:
            truth: the data set.
            objects: its objects, expanded.
            num_images: I, or more where there are detections of images that the data set does not have.
        """
        found = np.zeros((num_images, len(truth.ancestors)), bool)
        found[objects.images, objects.classes] = True
        found[:, 0] = True
        return found


class OfficialRule:
    """The rule of the Open Images Challenge.

    In an image those classes count that have an object there, and those that people verified as present
    or absent. What is above a present class is present; what is below an absent class is absent.

    Paper: A. Kuznetsova et al., The Open Images Dataset V4, and the challenge's page on evaluation.

    Args:
        iou_threshold, group_share: see :class:`PublishedRule`; both are 0.5 in the challenge.

    Raises:
        UserError: one of them is not above 0 and at most 1.
    """

    group_weight = 1.0

    def __init__(self, iou_threshold: float = 0.5, group_share: float = 0.5):
        self.iou_threshold = _overlap("iou_threshold", iou_threshold)
        self.group_share = _overlap("group_share", group_share)

    def judged(self, truth: OpenImagesTruth, objects: BoxTable, num_images: int) -> np.ndarray:
        """Return which classes count in which images, as :meth:`PublishedRule.judged`."""
        found = np.zeros((num_images, len(truth.ancestors)), bool)
        found[objects.images, objects.classes] = True
        for labels, implied in ((truth.positives, truth.ancestors), (truth.negatives, truth.ancestors.T)):
            rows, classes = np.nonzero(implied[labels[:, 1]])
            found[labels[rows, 0], classes] = True
        return found


def score(truth: OpenImagesTruth, detections: BoxTable, rule: PublishedRule | OfficialRule) -> ClassScores:
    """Expand objects and detections along the hierarchy, drop what is not judged, and score the rest.

    Args:
        truth: the data set.
        detections: in parts of the image's sides; image numbers from I on are those of images that the
            data set does not have, in which there is no object.
        rule: one of the rules here.
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
    """Return a limit of a rule, or raise a UserError if it is not the number that is wanted."""
    if not isinstance(value, (int, float)) or not allowed(value):
        raise UserError(f"{name} of a rule of OpenImages is {value}; it has to be a number {wanted}")
    return value
