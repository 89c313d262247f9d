"""How much a prior with an object counts, or how good its class score ought to be.

Each rule is called with what the priors of a batch are matched with and returns (N, P) float32, without a
gradient; only the values of priors with an object are read.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from htd.layers import centerness, paired_iou
from htd.modeling.dense.matched import Matched

Weighting = Callable[[Matched], Tensor]


class AssignedMetric:
    """What the assigner says: 1, or the alignment that it has graded a prior with (TOOD, section 3.2)."""

    def __call__(self, matched: Matched) -> Tensor:
        """Return the assigner's metric (N, P)."""
        return matched.metric


class Centerness:
    """How central a prior lies in its object (FCOS, equation 3)."""

    def __call__(self, matched: Matched) -> Tensor:
        """Return values (N, P) in [0, 1]."""
        return centerness(matched.priors.centers, matched.gt_boxes)


class PredictedIoU:
    """IoU of the predicted box with the object (Generalized Focal Loss, section 3.1)."""

    def __call__(self, matched: Matched) -> Tensor:
        """Return values (N, P) in [0, 1]."""
        with torch.no_grad():
            return paired_iou(matched.pred_boxes, matched.gt_boxes)


class BestScore:
    """The highest class probability of a prior.

    Source: the published implementation of Generalized Focal Loss, which weights the losses of boxes so.
    """

    def __call__(self, matched: Matched) -> Tensor:
        """Return values (N, P) in [0, 1]."""
        return matched.predictions.logits.detach().amax(dim=-1).sigmoid()
