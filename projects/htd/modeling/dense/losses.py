"""The losses of dense detectors, a value for each prior.

Each is called with the matched priors of a batch and returns (N, P) in float32 or better, to be summed; it is
0, and gives no gradient, wherever it does not apply. A loss of what not every head predicts has the attribute
``reads``, the name of that field of the predictions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from detectron2.modeling.box_regression import Box2BoxTransform
from fvcore.nn import smooth_l1_loss
from torch import Tensor

from htd.layers import distribution_focal_loss, focal_loss, giou_loss, iou_loss, quality_focal_loss
from htd.modeling.dense.matched import Matched
from htd.modeling.dense.weighting import Weighting

Loss = Callable[[Matched], Tensor]


class FocalLoss:
    """Binary cross-entropy of each class, damped where it is small already.

    Paper: Focal Loss for Dense Object Detection, equation 5.

    Args:
        alpha: weight of the object's class; the other classes have 1 - alpha.
        gamma: exponent of the damping.
    """

    def __init__(self, *, alpha: float = 0.25, gamma: float = 2.0):
        self.alpha = alpha
        self.gamma = gamma

    def __call__(self, matched: Matched) -> Tensor:
        """Return the sum over the classes; see the module's header."""
        loss = focal_loss(matched.predictions.logits, matched.gt_classes, self.alpha, self.gamma)
        return torch.where(matched.counted, loss, 0)


class QualityFocalLoss:
    """Binary cross-entropy with a quality instead of 1 as the target of the object's class.

    Paper: Generalized Focal Loss, equation 2; TOOD, section 3.2.

    Args:
        quality: what the score of the object's class ought to be, see :mod:`htd.modeling.dense.weighting`.
        beta: exponent of the distance of score and target that the loss is weighted by.
    """

    def __init__(self, *, quality: Weighting, beta: float = 2.0):
        self.quality = quality
        self.beta = beta

    def __call__(self, matched: Matched) -> Tensor:
        """Return the sum over the classes; see the module's header."""
        loss = quality_focal_loss(
            matched.predictions.logits, matched.gt_classes, self.quality(matched), self.beta
        )
        return torch.where(matched.counted, loss, 0)


class GIoULoss:
    """1 - GIoU of predicted boxes and their objects, weighted.

    Paper: Generalized Intersection over Union, section 3.

    Args:
        weighting: of each prior, see :mod:`htd.modeling.dense.weighting`.
        eps: lower bound of the areas that are divided by, in square pixels.
    """

    def __init__(self, *, weighting: Weighting, eps: float = 1e-6):
        self.weighting = weighting
        self.eps = eps

    def __call__(self, matched: Matched) -> Tensor:
        """Return the weighted losses; see the module's header."""
        loss = giou_loss(matched.pred_boxes, matched.gt_boxes, self.eps) * self.weighting(matched)
        return torch.where(matched.positive, loss, 0)


class IoULoss:
    """-log IoU of predicted boxes and their objects, weighted.

    Paper: FCOS, equation 2 (from UnitBox).

    Args:
        weighting: of each prior, see :mod:`htd.modeling.dense.weighting`.
    """

    def __init__(self, *, weighting: Weighting):
        self.weighting = weighting

    def __call__(self, matched: Matched) -> Tensor:
        """Return the weighted losses; see the module's header."""
        loss = iou_loss(matched.pred_boxes, matched.gt_boxes) * self.weighting(matched)
        return torch.where(matched.positive, loss, 0)


class DeltaLoss:
    """Smooth L1 of deltas from anchors (Focal Loss for Dense Object Detection, section 4.1).

    Args:
        transform: codes boxes as deltas.
        beta: where the loss turns from quadratic to linear, in deltas; 0 is L1.
    """

    def __init__(self, *, transform: Box2BoxTransform, beta: float = 0.0):
        self.transform = transform
        self.beta = beta

    def __call__(self, matched: Matched) -> Tensor:
        """Return the sum over the four deltas; see the module's header."""
        sources = matched.priors.boxes.expand_as(matched.gt_boxes)
        wanted = self.transform.get_deltas(sources.flatten(0, 1), matched.gt_boxes.flatten(0, 1))
        deltas = matched.predictions.regression
        wanted = wanted.to(deltas.dtype).view_as(deltas)
        positive = matched.positive[..., None]
        return smooth_l1_loss(torch.where(positive, deltas, wanted), wanted, beta=self.beta).sum(dim=-1)


class DistributionLoss:
    """Cross-entropy of the two bins around each true distance, weighted; the mean over the four sides.

    Paper: Generalized Focal Loss, equation 6.

    Args:
        weighting: of each prior, see :mod:`htd.modeling.dense.weighting`.
    """

    def __init__(self, *, weighting: Weighting):
        self.weighting = weighting

    def __call__(self, matched: Matched) -> Tensor:
        """Return the weighted losses; see the module's header."""
        priors, boxes = matched.priors, matched.gt_boxes
        distances = torch.cat([priors.centers - boxes[..., :2], boxes[..., 2:] - priors.centers], dim=-1)
        distances = distances / priors.stride_of_each[:, None]
        positive = matched.positive[..., None]
        # Where there is no object a constant takes the place of the logits, whatever they hold.
        logits = torch.where(positive, matched.predictions.regression, 0).unflatten(-1, (4, -1))
        loss = distribution_focal_loss(logits, distances).mean(dim=-1) * self.weighting(matched)
        return torch.where(matched.positive, loss, 0)


class CenternessLoss:
    """Binary cross-entropy of the predicted centerness with the true one.

    Paper: FCOS, section 3.2.

    Args:
        target: the true centerness, see :mod:`htd.modeling.dense.weighting`.
    """

    reads = "centerness"

    def __init__(self, *, target: Weighting):
        self.target = target

    def __call__(self, matched: Matched) -> Tensor:
        """Return the losses; see the module's header."""
        logits = torch.where(matched.positive, matched.predictions.centerness, 0)
        target = self.target(matched).to(logits.dtype)
        loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return torch.where(matched.positive, loss, 0)
