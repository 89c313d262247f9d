"""Supervision of the coarse boxes that lay out the points of the SALT operator.

Symbols: N images, P priors, A priors a cell, M = P / A cells. Boxes are XYXY in pixels of the resized input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from htd.layers import giou_loss, paired_iou
from htd.modeling.dense.matched import Matched
from htd.modeling.dense.normalizers import WeightSum
from htd.modeling.dense.weighting import Weighting

Target = Callable[[Matched], Tensor]


@dataclass(frozen=True)
class Cells:
    """The prior that stands for each cell: of those with an object the one that overlaps it most.

    Attributes:
        prior: (N, M) int64 in [0, P).
        positive: (N, M) bool, cells with an object.
    """

    prior: Tensor
    positive: Tensor

    @classmethod
    def of(cls, matched: Matched) -> Cells:
        """Choose one of the A priors of each cell; with one there is no choice."""
        per_cell = matched.priors.per_cell
        overlap = paired_iou(matched.priors.boxes, matched.gt_boxes)
        overlap = torch.where(matched.positive, overlap, -1).unflatten(1, (-1, per_cell))
        best = overlap.argmax(dim=2)
        first = torch.arange(0, len(matched.priors), per_cell, device=best.device)
        return cls(first + best, matched.positive.unflatten(1, (-1, per_cell)).any(dim=2))

    def read(self, values: Tensor) -> Tensor:
        """Return values (N, P, ...) of the priors as (N, M, ...) of the cells."""
        index = self.prior.view(*self.prior.shape, *[1] * (values.dim() - 2))
        return values.gather(1, index.expand(-1, -1, *values.shape[2:]))


class AssignedBox:
    """Coarse boxes learn the object itself: as published."""

    def __call__(self, matched: Matched) -> Tensor:
        """Return (N, P, 4)."""
        return matched.gt_boxes


class RefinedBox:
    """Coarse boxes learn the box that is predicted in the end, which learns nothing from them.

    Paper: SALT-Net, abstract, taken literally ("from the refined regression results to the coarse regression
    results"). The published implementation takes the object instead; nothing is published of this form.
    """

    def __call__(self, matched: Matched) -> Tensor:
        """Return (N, P, 4), without a gradient."""
        return matched.pred_boxes.detach()


class CoarseBoxLoss:
    """1 - GIoU of coarse boxes, a value for each cell.

    Paper: SALT-Net (arXiv 2108.12176), self-distillation, as published: what passes from the final box to
    the coarse one is the weight, a score that is trained to be the final box's IoU. With several priors a
    cell the loss is that of the prior that stands for the cell, see :class:`Cells`; this is not published.

    Args:
        weighting: of each prior, see :mod:`htd.modeling.dense.weighting`.
        target: what the boxes learn, :class:`AssignedBox` or :class:`RefinedBox`; the first if None.
        eps: lower bound of the areas that are divided by, in square pixels.
    """

    reads = "coarse"

    def __init__(self, *, weighting: Weighting, target: Target | None = None, eps: float = 1e-7):
        self.weighting = weighting
        self.target = AssignedBox() if target is None else target
        self.eps = eps

    def __call__(self, matched: Matched) -> Tensor:
        """Return the weighted losses (N, M); 0, without a gradient, for cells without an object."""
        cells = Cells.of(matched)
        wanted = cells.read(self.target(matched))
        boxes = torch.where(cells.positive[..., None], coarse_boxes(matched), wanted)
        loss = giou_loss(boxes, wanted, self.eps) * cells.read(self.weighting(matched))
        return torch.where(cells.positive, loss, 0)


class CoarseWeightSum(WeightSum):
    """The sum of the weights of cells, not of priors, with an object; with one prior a cell the same."""

    def __call__(self, matched: Matched) -> Tensor:
        """Return the sum, a scalar."""
        cells = Cells.of(matched)
        return (cells.read(self.weighting(matched)) * cells.positive).sum()


def coarse_boxes(matched: Matched) -> Tensor:
    """Return the coarse boxes (N, M, 4), around the points of the cells."""
    priors, distances = matched.priors, matched.predictions.coarse
    centers = priors.centers[:: priors.per_cell]
    distances = distances * priors.stride_of_each[:: priors.per_cell, None]
    return torch.cat([centers - distances[..., :2], centers + distances[..., 2:]], dim=-1)
