"""Assignment by how well a model's own class scores and boxes agree on an object.

Symbols: P priors, G objects of an image, K classes. Boxes are XYXY in pixels of the resized input.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from htd.layers import object_slices, paired_iou
from htd.layers.sampling import full_precision
from htd.modeling.dense.assigners import (
    UNUSED,
    Assigner,
    Assignment,
    Predicted,
    highest_iou_wins,
    nearest_side,
)
from htd.modeling.dense.checks import check_whole
from htd.modeling.dense.priors import Priors


@dataclass(frozen=True)
class AlignedCandidates:
    """The k best aligned priors of each of G objects (TOOD, section 3.2).

    Attributes:
        prior: (G, k) int64 in [0, P).
        alignment: (G, k), the metric t = score^alpha * IoU^beta, 0 for priors that are not valid.
        iou: (G, k), of the predicted boxes with the objects.
        claimed: (G, k) bool, those with an alignment above 0 whose middle lies in the object.
    """

    prior: Tensor
    alignment: Tensor
    iou: Tensor
    claimed: Tensor


class TaskAlignedAssigner(Assigner):
    """An object gets the priors that score its class and place its box best at the same time.

    Paper: TOOD, section 3.2. As in the published implementation the priors lie in the object, and of several
    objects that claim a prior the one with the highest IoU, not alignment, has it; of equal ones the first.
    The metric of an assignment is the alignment, scaled for each object so that its greatest value is the
    greatest IoU of the object's priors.

    Args:
        alpha, beta: exponents of the score and of the IoU.
        topk: priors that an object looks at, of all levels together.
        center_margin: a prior's middle lies farther than this, in pixels, inside of all sides.
        eps: added to the greatest alignment before it divides.
        pairs_at_once: pairs of prior and object held in memory at a time.

    Raises:
        UserError: ``topk`` is no whole number from 1 on.
    """

    reads_predictions = True

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        beta: float = 6.0,
        topk: int = 13,
        center_margin: float = 0.01,
        eps: float = 1e-7,
        pairs_at_once: int = 2**22,
    ):
        self.alpha = alpha
        self.beta = beta
        check_whole("topk of a TaskAlignedAssigner (model.supervision)", topk, 1)
        self.topk = topk
        self.center_margin = center_margin
        self.eps = eps
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
        found = self.candidates(priors, valid, gt_boxes, gt_classes, predicted)
        gt_index, granted = highest_iou_wins(found.prior, found.iou, found.claimed, len(priors))
        alignment, iou = (torch.where(granted, values, 0) for values in (found.alignment, found.iou))
        greatest = alignment.amax(dim=1, keepdim=True) + self.eps
        graded = alignment / greatest * iou.amax(dim=1, keepdim=True)
        metric = graded.new_zeros(len(priors))
        metric = metric.scatter_reduce(0, found.prior.flatten(), graded.flatten(), "amax")
        return Assignment(torch.where(valid, gt_index, UNUSED), metric)

    def candidates(
        self, priors: Priors, valid: Tensor, gt_boxes: Tensor, gt_classes: Tensor, predicted: Predicted
    ) -> AlignedCandidates:
        """Return the candidates of each object; arguments as in a call."""
        gt_boxes = full_precision(gt_boxes)
        scores, boxes = full_precision(predicted.scores).t().contiguous(), full_precision(predicted.boxes)
        shape = len(gt_boxes), min(self.topk, len(priors))
        prior = gt_classes.new_empty(shape, dtype=torch.int64)
        alignment, iou = boxes.new_empty(shape), boxes.new_empty(shape)
        for part in object_slices(len(gt_boxes), len(priors), self.pairs_at_once):
            best = self._best(boxes, scores, valid, gt_boxes[part], gt_classes[part], shape[1])
            prior[part], alignment[part], iou[part] = best
        inside = nearest_side(full_precision(priors.centers)[prior], gt_boxes[:, None]) > self.center_margin
        return AlignedCandidates(prior, alignment, iou, inside & (alignment > 0))

    def _best(
        self,
        boxes: Tensor,
        scores: Tensor,
        valid: Tensor,
        gt_boxes: Tensor,
        gt_classes: Tensor,
        count: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the ``count`` best aligned priors of some objects, their alignment and their IoU.

        ``scores`` are (K, P): a row for each class.
        """
        iou = paired_iou(gt_boxes[:, None], boxes)
        alignment = scores[gt_classes].pow_(self.alpha).mul_(iou.pow(self.beta)).masked_fill_(~valid, 0)
        alignment, prior = alignment.topk(count, sorted=False)
        return prior, alignment, iou.gather(1, prior)
