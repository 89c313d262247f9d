"""Assignment by a threshold of the IoU that each object sets for the anchors around its middle."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from htd.layers import object_slices, paired_iou
from htd.layers.sampling import full_precision
from htd.modeling.dense.assigners.base import Assigner, Assignment, Predicted
from htd.modeling.dense.assigners.claims import highest_iou_wins, nearest_side
from htd.modeling.dense.checks import check_whole
from htd.modeling.dense.priors import Priors


@dataclass(frozen=True)
class ATSSCandidates:
    """The k anchors that each of G objects looks at (ATSS, algorithm 1); fewer than k may be real.

    Attributes:
        prior: (G, k) int64, in [0, P).
        real: (G, k) bool; a level with few valid anchors fills up the rows with others.
        iou: (G, k), of the anchors with the objects.
        threshold: (G,), mean and standard deviation of the real ones' IoU; NaN, which no IoU reaches, if
            there is only one.
    """

    prior: Tensor
    real: Tensor
    iou: Tensor
    threshold: Tensor


class ATSSAssigner(Assigner):
    """An object gets those of its nearest anchors that overlap it more than they do on the whole.

    Paper: Bridging the Gap Between Anchor-based and Anchor-free Detection via Adaptive Training Sample
    Selection, algorithm 1. Of several objects that claim an anchor the one with the highest IoU has it, of
    equal ones the first. Which of equally distant anchors come among the nearest is left open.

    Args:
        topk: anchors of each level whose middles are nearest to the object's.
        center_margin: an anchor's middle lies farther than this, in pixels, inside of all sides.
        pairs_at_once: pairs of prior and object held in memory at a time.

    Raises:
        UserError: ``topk`` is no whole number from 1 on.
    """

    def __init__(self, *, topk: int = 9, center_margin: float = 0.01, pairs_at_once: int = 2**22):
        check_whole("topk of an ATSSAssigner (model.supervision)", topk, 1)
        self.topk = topk
        self.center_margin = center_margin
        self.pairs_at_once = pairs_at_once

    def __call__(
        self,
        priors: Priors,
        valid: Tensor,
        gt_boxes: Tensor,
        gt_classes: Tensor,
        predicted: Predicted | None = None,
    ) -> Assignment:
        """Assign; see :class:`Assigner`."""
        candidates = self.candidates(priors, valid, gt_boxes)
        centers = full_precision(priors.centers)[candidates.prior]
        # Those that are not real may claim what they like: their priors are not valid.
        claimed = candidates.iou >= candidates.threshold[:, None]
        claimed &= nearest_side(centers, full_precision(gt_boxes)[:, None]) > self.center_margin
        gt_index, _ = highest_iou_wins(candidates.prior, candidates.iou, claimed, len(priors))
        return Assignment.ungraded(gt_index, valid)

    def candidates(self, priors: Priors, valid: Tensor, gt_boxes: Tensor) -> ATSSCandidates:
        """Return the candidates of each object and their threshold; arguments as in a call."""
        gt_boxes = full_precision(gt_boxes)
        prior = self._nearest(priors, valid, gt_boxes)
        real, iou = valid[prior], paired_iou(priors.boxes[prior], gt_boxes[:, None])
        return ATSSCandidates(prior, real, iou, _mean_and_deviation(iou, real))

    def _nearest(self, priors: Priors, valid: Tensor, gt_boxes: Tensor) -> Tensor:
        """Return the ``topk`` nearest anchors of each level (G, k), valid ones before the rest."""
        # Invalid anchors lie infinitely far away.
        centers = torch.where(valid[:, None], full_precision(priors.centers), math.inf)
        gt_x, gt_y = ((gt_boxes[:, :2] + gt_boxes[:, 2:]) / 2).unsqueeze(1).unbind(dim=-1)
        nearest, start = [], 0
        for points in priors.split(centers):
            x, y = points.unbind(dim=-1)
            wanted = min(self.topk, len(points))
            found = torch.empty(len(gt_boxes), wanted, dtype=torch.int64, device=points.device)
            for part in object_slices(len(gt_boxes), len(points), self.pairs_at_once):
                squares = (x - gt_x[part]).square_().add_((y - gt_y[part]).square_())
                found[part] = squares.topk(wanted, largest=False, sorted=False).indices + start
                del squares  # or it would be held while the next ones are computed
            nearest.append(found)
            start += len(points)
        return torch.cat(nearest, dim=1)


def _mean_and_deviation(values: Tensor, real: Tensor) -> Tensor:
    """Return the sum of the mean and the unbiased standard deviation (G,) of the real values (G, k).

    The highest value is the origin: of equal values the mean is then that value, without rounding, and they
    all reach the threshold.
    """
    count = real.sum(dim=1, keepdim=True)
    origin = torch.where(real, values, -math.inf).amax(dim=1, keepdim=True)
    mean = torch.where(real, values - origin, 0).sum(dim=1, keepdim=True) / count
    deviations = torch.where(real, values - origin - mean, 0)
    variance = deviations.square().sum(dim=1, keepdim=True) / (count - 1)
    return (origin + mean + variance.sqrt())[:, 0]
