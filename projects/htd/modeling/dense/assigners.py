"""Assigners: which object of one image each prior has to find.

An assigner is stateless, and computes in at least float32, also under autocast. Nothing waits for the device:
results are masks over all priors, or over a fixed number of candidates per object. Objects are taken a few at
a time, so that 2000 objects in an image of 800 x 1333 pixels need less than 400 MB.

Symbols: P priors, G objects of the image, k candidate priors per object, K classes. Boxes are XYXY in pixels
of the resized input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from htd.layers import match_by_iou, object_slices, paired_iou
from htd.layers.sampling import full_precision
from htd.modeling.dense.boxes import Priors

BACKGROUND = -1
UNUSED = -2
# Least and greatest distance to the farthest side, in pixels, on the levels p3 to p7.
FCOS_RANGES = ((-1, 64), (64, 128), (128, 256), (256, 512), (512, math.inf))


@dataclass(frozen=True)
class Assignment:
    """The object of each prior.

    Attributes:
        gt_index: (P,) int64, the object in [0, G); ``BACKGROUND``; or ``UNUSED`` for priors that take no part
            in the classification loss.
        metric: (P,) how well a prior suits its object, for the losses to read; 0 without an object.
    """

    gt_index: Tensor
    metric: Tensor

    @classmethod
    def hard(cls, gt_index: Tensor, valid: Tensor) -> Assignment:
        """Return an assignment whose metric is 1 for every prior with an object.

        Args:
            gt_index: (P,), as above.
            valid: (P,) bool, which priors may take part; the others become ``UNUSED``.
        """
        gt_index = torch.where(valid, gt_index, UNUSED)
        return cls(gt_index, (gt_index >= 0).float())


@dataclass(frozen=True)
class Predicted:
    """What a model predicts at the priors of one image, without gradients.

    Attributes:
        scores: (P, K), probabilities.
        boxes: (P, 4).
    """

    scores: Tensor
    boxes: Tensor


class Assigner:
    """Assigns the objects of one image to priors.

    Attributes:
        reads_predictions: whether a call needs what the model predicts.
    """

    reads_predictions = False

    def __call__(
        self, priors: Priors, valid: Tensor, gt_boxes: Tensor, gt_classes: Tensor, predicted: Predicted | None
    ) -> Assignment:
        """Assign; without objects all valid priors are background.

        Args:
            priors: of the batch.
            valid: (P,) bool, which priors may take part; the others become ``UNUSED``.
            gt_boxes: (G, 4).
            gt_classes: (G,) int64 in [0, K).
            predicted: at the priors; None unless ``reads_predictions``.
        """
        raise NotImplementedError


def nearest_side(points: Tensor, boxes: Tensor) -> Tensor:
    """Return the distance (...), in pixels, from points to the nearest side of boxes, above 0 only inside.

    Args:
        points: (..., 2) as (x, y).
        boxes: (..., 4); the shapes broadcast.
    """
    x, y = points.unbind(dim=-1)
    x1, y1, x2, y2 = boxes.unbind(dim=-1)
    return torch.minimum(torch.minimum(x - x1, x2 - x), torch.minimum(y - y1, y2 - y))


def assign_to_highest_iou(
    prior: Tensor, iou: Tensor, positive: Tensor, num_priors: int
) -> tuple[Tensor, Tensor]:
    """Give a prior that is positive for several objects to the one of the highest IoU, or the first of them.

    Args:
        prior: (G, k) int64 in [0, P); the candidates of an object are distinct.
        iou: (G, k), of the candidates with the objects.
        positive: (G, k) bool, which candidates are positive for their object.
        num_priors: P.

    Returns:
        (P,) int64, the object of each prior, or ``BACKGROUND``; and (G, k) bool, which candidates are
        assigned to their object.
    """
    flat_prior, objects = prior.flatten(), torch.arange(len(prior), device=prior.device)[:, None]
    best_iou = iou.new_full((num_priors,), -1.0)
    best_iou = best_iou.scatter_reduce(0, flat_prior, torch.where(positive, iou, -1.0).flatten(), "amax")
    best = positive & (iou == best_iou[prior])
    first = prior.new_full((num_priors,), len(prior))
    first = first.scatter_reduce(0, flat_prior, torch.where(best, objects, len(prior)).flatten(), "amin")
    return torch.where(first < len(prior), first, BACKGROUND), best & (objects == first[prior])


@dataclass(frozen=True)
class ATSSCandidates:
    """The k anchors around the center of each of G objects.

    Attributes:
        prior: (G, k) int64 in [0, P).
        valid: (G, k) bool; invalid anchors fill up the candidates of a level with fewer valid ones.
        iou: (G, k), of the anchors with the objects.
        threshold: (G,), mean plus standard deviation of the IoU of the valid candidates; NaN, which no IoU
            reaches, if there is only one.
    """

    prior: Tensor
    valid: Tensor
    iou: Tensor
    threshold: Tensor


class ATSSAssigner(Assigner):
    """An object gets those of its nearest anchors whose IoU stands out among them.

    Of several objects that an anchor is positive for, the one with the highest IoU has it. Which of equally
    distant anchors are candidates is left open, as in the published implementation.

    Paper: Bridging the Gap Between Anchor-based and Anchor-free Detection via Adaptive Training Sample
    Selection, algorithm 1, https://arxiv.org/abs/1912.02424

    Args:
        topk: candidates of each level, those whose centers are nearest to the object's.
        center_margin: a positive anchor's center lies more than this, in pixels, inside of all sides.
        pairs_at_once: pairs of a prior and an object held in memory at a time.
    """

    def __init__(self, *, topk: int = 9, center_margin: float = 0.01, pairs_at_once: int = 2**22):
        if topk < 1:
            raise ValueError(f"topk is {topk}; it has to be at least 1")
        self.topk = topk
        self.center_margin = center_margin
        self.pairs_at_once = pairs_at_once

    def __call__(
        self, priors: Priors, valid: Tensor, gt_boxes: Tensor, gt_classes: Tensor, predicted: Predicted | None
    ) -> Assignment:
        """See :class:`Assigner`."""
        candidates = self.candidates(priors, valid, gt_boxes)
        centers = full_precision(priors.centers)[candidates.prior]
        # Invalid candidates may be positive, too: their priors become UNUSED in the end.
        positive = candidates.iou >= candidates.threshold[:, None]
        positive &= nearest_side(centers, full_precision(gt_boxes)[:, None]) > self.center_margin
        gt_index, _ = assign_to_highest_iou(candidates.prior, candidates.iou, positive, len(priors))
        return Assignment.hard(gt_index, valid)

    def candidates(self, priors: Priors, valid: Tensor, gt_boxes: Tensor) -> ATSSCandidates:
        """Return the candidates of each object and their threshold; arguments as in a call."""
        gt_boxes = full_precision(gt_boxes)
        # Invalid anchors lie infinitely far away, so that valid ones are taken first.
        centers = torch.where(valid[:, None], full_precision(priors.centers), math.inf)
        gt_x, gt_y = ((gt_boxes[:, :2] + gt_boxes[:, 2:]) / 2).unsqueeze(1).unbind(dim=-1)
        nearest, start = [], 0
        for points in priors.split(centers):
            x, y = points.unbind(dim=-1)
            k = min(self.topk, len(points))
            level_nearest = torch.empty(len(gt_boxes), k, dtype=torch.int64, device=points.device)
            for part in object_slices(len(gt_boxes), len(points), self.pairs_at_once):
                squares = (x - gt_x[part]).square_().add_((y - gt_y[part]).square_())
                level_nearest[part] = squares.topk(k, largest=False, sorted=False).indices + start
                del squares  # or it would be held while the next ones are computed
            nearest.append(level_nearest)
            start += len(points)
        prior = torch.cat(nearest, dim=1)
        iou, valid = paired_iou(priors.boxes[prior], gt_boxes[:, None]), valid[prior]
        # Relative to the highest value the mean of equal ones is exact, so that they all reach the threshold.
        highest = torch.where(valid, iou, -math.inf).amax(dim=1, keepdim=True)
        count = valid.sum(dim=1, keepdim=True)
        mean = torch.where(valid, iou - highest, 0).sum(dim=1, keepdim=True) / count
        deviations = torch.where(valid, iou - highest - mean, 0)
        variance = deviations.square().sum(dim=1, keepdim=True) / (count - 1)
        return ATSSCandidates(prior, valid, iou, (highest + mean + variance.sqrt())[:, 0])


class IoUAssigner(Assigner):
    """Anchors find an object that they overlap enough; each object also gets its best anchors.

    Anchors between the two thresholds are unused. As in the published implementation an object has its best
    anchors even where another object overlaps them better; Detectron2 leaves them to the other one.

    Paper: Focal Loss for Dense Object Detection, section 4, https://arxiv.org/abs/1708.02002

    Args:
        positive_iou, negative_iou: thresholds in [0, 1].
        low_quality_iou: least IoU of the best anchors of an object, in [0, 1].
        pairs_at_once: pairs of a prior and an object held in memory at a time.
    """

    def __init__(
        self,
        *,
        positive_iou: float = 0.5,
        negative_iou: float = 0.4,
        low_quality_iou: float = 0.0,
        pairs_at_once: int = 2**22,
    ):
        self.positive_iou = positive_iou
        self.negative_iou = negative_iou
        self.low_quality_iou = low_quality_iou
        self.pairs_at_once = pairs_at_once

    def __call__(
        self, priors: Priors, valid: Tensor, gt_boxes: Tensor, gt_classes: Tensor, predicted: Predicted | None
    ) -> Assignment:
        """See :class:`Assigner`."""
        labels, index = match_by_iou(
            # An anchor without extent overlaps nothing, so no object gets it.
            torch.where(valid[:, None], full_precision(priors.boxes), 0),
            full_precision(gt_boxes),
            positive_iou=self.positive_iou,
            negative_iou=self.negative_iou,
            low_quality_iou=self.low_quality_iou,
            pairs_at_once=self.pairs_at_once,
        )
        gt_index = torch.where(labels == 1, index, torch.where(labels == 0, BACKGROUND, UNUSED))
        return Assignment.hard(gt_index, valid)


class FCOSAssigner(Assigner):
    """A point gets the smallest object that it lies in and that suits its level; of equal ones the first.

    Paper: FCOS: Fully Convolutional One-Stage Object Detection, section 3.2, https://arxiv.org/abs/1904.01355

    Args:
        ranges: for each level the least and the greatest distance, in pixels, of a point to the farthest
            side of its object; both belong to the range.
        center_radius: a point also lies within this many strides of the object's center, in x and in y. The
            first version of the paper has no such limit, its later ones have 1.5.
        pairs_at_once: pairs of a prior and an object held in memory at a time.
    """

    def __init__(
        self,
        *,
        ranges: Sequence[tuple[float, float]] = FCOS_RANGES,
        center_radius: float = math.inf,
        pairs_at_once: int = 2**22,
    ):
        self.ranges = tuple(ranges)
        self.center_radius = center_radius
        self.pairs_at_once = pairs_at_once

    def __call__(
        self, priors: Priors, valid: Tensor, gt_boxes: Tensor, gt_classes: Tensor, predicted: Predicted | None
    ) -> Assignment:
        """See :class:`Assigner`."""
        if len(self.ranges) != len(priors.shapes):
            raise ValueError(f"there are {len(self.ranges)} ranges for {len(priors.shapes)} levels")
        gt_boxes = full_precision(gt_boxes)
        levels = zip(priors.split(full_precision(priors.centers)), priors.strides, self.ranges, strict=True)
        gt_index = []
        for points, stride, limits in levels:
            smallest = points.new_full((len(points),), math.inf)
            index = torch.full_like(smallest, BACKGROUND, dtype=torch.int64)
            for part in object_slices(len(gt_boxes), len(points), self.pairs_at_once):
                areas = _areas_around(points, gt_boxes[part], self.center_radius * stride, limits)
                area, row = areas.min(dim=0)
                index = torch.where(area < smallest, row + part.start, index)
                smallest = torch.minimum(smallest, area)
            gt_index.append(index)
        return Assignment.hard(torch.cat(gt_index), valid)


def _areas_around(points: Tensor, gt_boxes: Tensor, radius: float, limits: tuple[float, float]) -> Tensor:
    """Return the areas (g, n) of objects (g, 4) for points (n, 2) that may find them, elsewhere infinity."""
    low, high = gt_boxes.split(2, dim=1)
    center = (low + high) / 2
    region = torch.cat([torch.maximum(low, center - radius), torch.minimum(high, center + radius)], dim=1)
    inside = nearest_side(points, region[:, None]) > 0
    x, y = points.unbind(dim=-1)
    x1, y1, x2, y2 = gt_boxes[:, None].unbind(dim=-1)
    farthest = torch.maximum(torch.maximum(x - x1, x2 - x), torch.maximum(y - y1, y2 - y))
    inside &= (farthest >= limits[0]) & (farthest <= limits[1])
    return torch.where(inside, (high - low).prod(dim=1, keepdim=True), math.inf)
