"""Losses of dense detectors, and what they weight a prior by.

A weighting says how much a prior with an object counts, or how high the score of its class ought to be. It is
called with the targets and returns (N, P), without a gradient; only values of priors with an object are read.

Symbols: N images, P priors, K classes. Boxes are XYXY in pixels of the resized input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.modeling.box_regression import Box2BoxTransform
from fvcore.nn import smooth_l1_loss
from torch import Tensor

from htd.layers import (
    centerness,
    distribution_focal_loss,
    focal_loss,
    giou_loss,
    iou_loss,
    paired_iou,
    quality_focal_loss,
)
from htd.modeling.dense.boxes import Priors
from htd.modeling.dense.head import DensePredictions


@dataclass(frozen=True)
class DenseTargets:
    """The priors of a batch with their predictions and the objects that they have to find.

    Positives are masked, not listed: nothing then depends on a count, which a GPU would have to wait for.

    Attributes:
        priors: of the batch.
        predictions: at the priors.
        pred_boxes: (N, P, 4) predicted boxes; those of priors without an object are constants, so that
            nothing they hold can reach a loss.
        gt_classes: (N, P) int64 in [0, K], K without an object.
        gt_boxes: (N, P, 4) boxes of the objects, the prior's own without an object.
        positive: (N, P) bool, priors with an object.
        counted: (N, P) bool, priors that take part in the classification loss.
        metric: (N, P) the assigner's, 0 without an object.
    """

    priors: Priors
    predictions: DensePredictions
    pred_boxes: Tensor
    gt_classes: Tensor
    gt_boxes: Tensor
    positive: Tensor
    counted: Tensor
    metric: Tensor


Weighting = Callable[[DenseTargets], Tensor]


class DenseLoss:
    """A loss with one value per prior.

    Attributes:
        reads: name of the optional field of the predictions that it reads, or None.
    """

    reads: str | None = None

    def __call__(self, targets: DenseTargets) -> Tensor:
        """Return the losses (N, P), in at least float32, 0 and without a gradient where they do not apply."""
        raise NotImplementedError


class AssignedMetric:
    """The assigner's metric: 1 in a hard assignment, else how well a prior suits its object."""

    def __call__(self, targets: DenseTargets) -> Tensor:
        """Return the metric (N, P)."""
        return targets.metric


class Centerness:
    """How central a prior lies in its object.

    Paper: FCOS: Fully Convolutional One-Stage Object Detection, equation 3, https://arxiv.org/abs/1904.01355
    """

    def __call__(self, targets: DenseTargets) -> Tensor:
        """Return values (N, P) in [0, 1]."""
        return centerness(targets.priors.centers, targets.gt_boxes)


class PredictedIoU:
    """IoU of the predicted box with the object.

    Paper: Generalized Focal Loss, section 3.1, https://arxiv.org/abs/2006.04388
    """

    def __call__(self, targets: DenseTargets) -> Tensor:
        """Return values (N, P) in [0, 1]."""
        with torch.no_grad():
            return paired_iou(targets.pred_boxes, targets.gt_boxes)


class BestScore:
    """The highest class probability of a prior; as published in code with Generalized Focal Loss."""

    def __call__(self, targets: DenseTargets) -> Tensor:
        """Return values (N, P) in [0, 1]."""
        return targets.predictions.logits.detach().amax(dim=-1).sigmoid()


class FocalLoss(DenseLoss):
    """Binary cross-entropy of each class, scaled down where it is small already, summed over the classes.

    Paper: Focal Loss for Dense Object Detection, equation 5, https://arxiv.org/abs/1708.02002

    Args:
        alpha: weight of the object's class; the other classes have 1 - alpha.
        gamma: exponent of the scaling.
    """

    def __init__(self, *, alpha: float = 0.25, gamma: float = 2.0):
        self.alpha = alpha
        self.gamma = gamma

    def __call__(self, targets: DenseTargets) -> Tensor:
        """See :class:`DenseLoss`."""
        loss = focal_loss(targets.predictions.logits, targets.gt_classes, self.alpha, self.gamma)
        return torch.where(targets.counted, loss, 0)


class QualityFocalLoss(DenseLoss):
    """Binary cross-entropy with a quality instead of 1 as the target of the object's class.

    Paper: Generalized Focal Loss, equation 2, https://arxiv.org/abs/2006.04388

    Args:
        quality: the score that the object's class ought to have.
        beta: exponent of the distance between score and target that scales the loss.
    """

    def __init__(self, *, quality: Weighting, beta: float = 2.0):
        self.quality = quality
        self.beta = beta

    def __call__(self, targets: DenseTargets) -> Tensor:
        """See :class:`DenseLoss`."""
        quality = self.quality(targets)
        loss = quality_focal_loss(targets.predictions.logits, targets.gt_classes, quality, self.beta)
        return torch.where(targets.counted, loss, 0)


class GIoULoss(DenseLoss):
    """1 - GIoU of predicted boxes and their objects, weighted.

    Paper: Generalized Intersection over Union, section 3, https://arxiv.org/abs/1902.09630

    Args:
        weighting: of each prior.
        eps: lower bound of the areas that are divided by, in square pixels.
    """

    def __init__(self, *, weighting: Weighting, eps: float = 1e-6):
        self.weighting = weighting
        self.eps = eps

    def __call__(self, targets: DenseTargets) -> Tensor:
        """See :class:`DenseLoss`."""
        loss = giou_loss(targets.pred_boxes, targets.gt_boxes, self.eps) * self.weighting(targets)
        return torch.where(targets.positive, loss, 0)


class IoULoss(DenseLoss):
    """-log IoU of predicted boxes and their objects, weighted.

    Paper: FCOS: Fully Convolutional One-Stage Object Detection, equation 2, https://arxiv.org/abs/1904.01355

    Args:
        weighting: of each prior.
    """

    def __init__(self, *, weighting: Weighting):
        self.weighting = weighting

    def __call__(self, targets: DenseTargets) -> Tensor:
        """See :class:`DenseLoss`."""
        loss = iou_loss(targets.pred_boxes, targets.gt_boxes) * self.weighting(targets)
        return torch.where(targets.positive, loss, 0)


class DeltaLoss(DenseLoss):
    """Smooth L1 of the deltas from anchors, summed over the four deltas.

    Paper: Focal Loss for Dense Object Detection, section 4.1, https://arxiv.org/abs/1708.02002

    Args:
        transform: codes boxes as deltas.
        beta: where the loss turns from quadratic to linear, in deltas; 0 is L1.
    """

    def __init__(self, *, transform: Box2BoxTransform, beta: float = 0.0):
        self.transform = transform
        self.beta = beta

    def __call__(self, targets: DenseTargets) -> Tensor:
        """See :class:`DenseLoss`."""
        anchors = targets.priors.boxes.expand_as(targets.gt_boxes)
        gt_deltas = self.transform.get_deltas(anchors.flatten(0, 1), targets.gt_boxes.flatten(0, 1))
        deltas = targets.predictions.regression
        gt_deltas = gt_deltas.to(deltas.dtype).view_as(deltas)
        deltas = torch.where(targets.positive[..., None], deltas, gt_deltas)
        return smooth_l1_loss(deltas, gt_deltas, beta=self.beta).sum(dim=-1)


class DistributionLoss(DenseLoss):
    """Cross-entropy of the two bins around each true distance, weighted; the mean over the four sides.

    Paper: Generalized Focal Loss, equation 6, https://arxiv.org/abs/2006.04388

    Args:
        weighting: of each prior.
    """

    def __init__(self, *, weighting: Weighting):
        self.weighting = weighting

    def __call__(self, targets: DenseTargets) -> Tensor:
        """See :class:`DenseLoss`."""
        centers, boxes = targets.priors.centers, targets.gt_boxes
        distances = torch.cat([centers - boxes[..., :2], boxes[..., 2:] - centers], dim=-1)
        distances = distances / targets.priors.prior_strides[:, None]
        # Without an object a constant takes the place of the logits, so that not even a NaN passes.
        logits = torch.where(targets.positive[..., None], targets.predictions.regression, 0)
        loss = distribution_focal_loss(logits.unflatten(-1, (4, -1)), distances).mean(dim=-1)
        return torch.where(targets.positive, loss * self.weighting(targets), 0)


class CenternessLoss(DenseLoss):
    """Binary cross-entropy of the predicted centerness with the true one.

    Paper: FCOS: Fully Convolutional One-Stage Object Detection, section 3.2, https://arxiv.org/abs/1904.01355

    Args:
        target: the true centerness.
    """

    reads = "centerness"

    def __init__(self, *, target: Weighting):
        self.target = target

    def __call__(self, targets: DenseTargets) -> Tensor:
        """See :class:`DenseLoss`."""
        logits = torch.where(targets.positive, targets.predictions.centerness, 0)
        target = self.target(targets).to(logits.dtype)
        loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return torch.where(targets.positive, loss, 0)
