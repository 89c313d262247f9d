"""The loss of the coarse boxes that lay out the points of the SALT operator.

Symbols: N images, P priors, A priors per cell, M = P / A cells. Boxes are XYXY in pixels of the resized
input.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from htd.layers import giou_loss, paired_iou
from htd.modeling.dense.boxes import boxes_from_distances
from htd.modeling.dense.criterion import WeightSum
from htd.modeling.dense.losses import DenseLoss, DenseTargets, Weighting


class AssignedBox:
    """Coarse boxes learn the object itself: as published."""

    def __call__(self, targets: DenseTargets) -> Tensor:
        """Return (N, P, 4)."""
        return targets.gt_boxes


class RefinedBox:
    """Coarse boxes learn the box that is predicted in the end, which learns nothing from them.

    Paper: Rethinking the Misalignment Problem in Dense Object Detection, abstract, taken literally; the
    published implementation has the object instead, https://arxiv.org/abs/2108.12176
    """

    def __call__(self, targets: DenseTargets) -> Tensor:
        """Return (N, P, 4), without a gradient."""
        return targets.pred_boxes.detach()


class CoarseBoxLoss(DenseLoss):
    """1 - GIoU of coarse boxes, one value per cell.

    What passes from the final box to the coarse one is the weight, a score that is trained to be the final
    box's IoU. With several priors per cell the loss is that of the prior that :func:`best_prior_of_cells`
    chooses; this is not published.

    Paper: Rethinking the Misalignment Problem in Dense Object Detection, section 3 (self-distillation),
    https://arxiv.org/abs/2108.12176

    Args:
        weighting: of each prior.
        target: what the boxes learn; :class:`AssignedBox` if None.
        eps: lower bound of the areas that are divided by, in square pixels.
    """

    reads = "coarse"

    def __init__(
        self,
        *,
        weighting: Weighting,
        target: Callable[[DenseTargets], Tensor] | None = None,
        eps: float = 1e-7,
    ):
        self.weighting = weighting
        self.target = AssignedBox() if target is None else target
        self.eps = eps

    def __call__(self, targets: DenseTargets) -> Tensor:
        """Return the losses (N, M), 0 without a gradient for cells without an object."""
        priors = targets.priors
        prior, positive = best_prior_of_cells(targets)
        target_boxes = self.target(targets).take_along_dim(prior[..., None], dim=1)
        weights = self.weighting(targets).gather(1, prior)
        # All priors of a cell have the same center and stride.
        distances = targets.predictions.coarse * priors.prior_strides[:: priors.per_cell, None]
        coarse_boxes = boxes_from_distances(priors.centers[:: priors.per_cell], distances)
        coarse_boxes = torch.where(positive[..., None], coarse_boxes, target_boxes)
        return torch.where(positive, giou_loss(coarse_boxes, target_boxes, self.eps) * weights, 0)


class CoarseWeightSum(WeightSum):
    """The sum of the weights of cells, not of priors, with an object; with one prior per cell the same."""

    def __call__(self, targets: DenseTargets) -> Tensor:
        """Return the sum, a scalar."""
        prior, positive = best_prior_of_cells(targets)
        return (self.weighting(targets).gather(1, prior) * positive).sum()


def best_prior_of_cells(targets: DenseTargets) -> tuple[Tensor, Tensor]:
    """Choose a prior for each cell: of those with an object the one that overlaps it most.

    Returns:
        (N, M) int64 in [0, P), the prior; and (N, M) bool, cells with an object.
    """
    per_cell = targets.priors.per_cell
    overlap = paired_iou(targets.priors.boxes, targets.gt_boxes)
    overlap = torch.where(targets.positive, overlap, -1).unflatten(1, (-1, per_cell))
    best = overlap.argmax(dim=2)
    first = torch.arange(0, len(targets.priors), per_cell, device=best.device)
    return first + best, targets.positive.unflatten(1, (-1, per_cell)).any(dim=2)
