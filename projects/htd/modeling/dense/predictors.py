"""Predictors of a dense head: from the features of both tasks to class logits, boxes and maybe centerness.

Symbols: N images, A priors per cell, K classes, E extra outputs of the classifier, D numbers that one box is
decoded from, C channels, H x W cells of one level.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from htd.layers import product_logits
from htd.layers.sampling import full_precision
from htd.modeling.dense.head import TaskFeatures

SIDES = 4
# Logarithms beyond any image: exp(8) is 2981 cells, exp(12) is 162755 pixels.
LARGEST_IN_CELLS, LARGEST_IN_PIXELS = 8.0, 12.0


def bounded_exp(x: Tensor, largest: float) -> Tensor:
    """Return exp(x), continued by its tangent above ``largest``, so that nothing overflows.

    Args:
        x: logarithms of distances, in any unit.
        largest: logarithm of a distance that no object of an image has in this unit.
    """
    within = x.clamp(max=largest)
    return within.exp() * (1 + (x - within))


class BoxRule:
    """Turns the output of the box predictor into the numbers that boxes are decoded from.

    Attributes:
        scales: whether it multiplies by a learned scalar of each level.
    """

    scales = True

    def __call__(self, x: Tensor, scale: Tensor | None) -> Tensor:
        """Return (N, A * D, H, W) for x of this shape, in at least float32, and the level's scalar."""
        raise NotImplementedError


class Unscaled(BoxRule):
    """Predictions as they are."""

    scales = False

    def __call__(self, x: Tensor, scale: Tensor | None) -> Tensor:
        """Return x."""
        return x


class Scaled(BoxRule):
    """Predictions multiplied by the level's scalar."""

    def __call__(self, x: Tensor, scale: Tensor) -> Tensor:
        """Return scale * x."""
        return scale * x


class ExpOfScaled(BoxRule):
    """Distances in pixels as the exponential of scaled predictions.

    Paper: FCOS: Fully Convolutional One-Stage Object Detection, section 3.1, https://arxiv.org/abs/1904.01355

    Args:
        largest: see :func:`bounded_exp`; of distances in pixels.
    """

    def __init__(self, *, largest: float = LARGEST_IN_PIXELS):
        self.largest = largest

    def __call__(self, x: Tensor, scale: Tensor) -> Tensor:
        """Return exp(scale * x), in pixels."""
        return bounded_exp(scale * x, self.largest)


class ScaledExp(BoxRule):
    """Distances in cells as the scaled exponential of predictions.

    Paper: TOOD: Task-aligned One-stage Object Detection, section 3.1, as published in code,
    https://arxiv.org/abs/2108.07755

    Args:
        largest: see :func:`bounded_exp`; of distances in cells, before they are scaled.
    """

    def __init__(self, *, largest: float = LARGEST_IN_CELLS):
        self.largest = largest

    def __call__(self, x: Tensor, scale: Tensor) -> Tensor:
        """Return abs(scale) * exp(x), in cells."""
        # The scale starts at 1, but a high learning rate can carry it below 0, where all boxes would be
        # inside out and the published loss decreases without bound.
        return scale.abs() * bounded_exp(x, self.largest)


class Predictors(nn.Module):
    """Convolutions that predict class logits, boxes and maybe centerness of one level.

    Paper: Focal Loss for Dense Object Detection, section 4, https://arxiv.org/abs/1708.02002
    Paper (scalars of levels, centerness): FCOS, section 3.2, https://arxiv.org/abs/1904.01355

    Args:
        num_classes: K.
        channels: C of the towers' features.
        num_anchors: A.
        box_dim: D.
        num_levels: number of scalars for ``box_rule``, one per level; 0 if the rule has none.
        box_rule: applied to what is predicted for boxes.
        centerness_from: the task features that centerness is predicted from, "classification" or
            "regression"; None for no centerness.
        prior_probability: class probability that the biases start with, between 0 and 1.
        extra_classes: E, outputs of the classifier beyond the K classes. No object has such a class, so they
            learn to be 0; some published weights have one. The post-processing has to drop them.

    Attributes:
        regression_dim: D of what a call returns.
        num_levels: number of levels that it is made for; None for any.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        channels: int = 256,
        num_anchors: int = 1,
        box_dim: int = 4,
        num_levels: int = 5,
        box_rule: BoxRule,
        centerness_from: str | None = None,
        prior_probability: float = 0.01,
        extra_classes: int = 0,
    ):
        super().__init__()
        if centerness_from not in (None, "classification", "regression"):
            raise ValueError(
                f"centerness_from is {centerness_from!r}; give classification, regression or None"
            )
        if extra_classes < 0:
            raise ValueError(f"extra_classes is {extra_classes}; it has to be at least 0")
        if not num_levels and box_rule.scales:
            raise ValueError("num_levels is 0, but the box rule multiplies by a scalar of each level")
        self.num_classes = num_classes
        self.extra_classes = extra_classes
        self.num_anchors = num_anchors
        self.num_levels = num_levels or None
        self.regression_dim = box_dim
        self.cls_score = nn.Conv2d(channels, num_anchors * (num_classes + extra_classes), 3, padding=1)
        self.bbox_pred = nn.Conv2d(channels, num_anchors * box_dim, 3, padding=1)
        self.centerness = nn.Conv2d(channels, num_anchors, 3, padding=1) if centerness_from else None
        self.scales = nn.ParameterList(nn.Parameter(torch.ones(())) for _ in range(num_levels))
        self.box_rule = box_rule
        self.centerness_from = centerness_from
        for conv in filter(None, (self.cls_score, self.bbox_pred, self.centerness)):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)
        nn.init.constant_(self.cls_score.bias, prior_logit(prior_probability))

    def forward(self, features: TaskFeatures, level: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return logits (N, A * (K + E), H, W), boxes (N, A * D, H, W), centerness (N, A, H, W) or None."""
        centerness = None
        if self.centerness is not None:
            centerness = self.centerness(getattr(features, self.centerness_from))
        logits = self.cls_score(features.classification)
        # Boxes are predicted in at least float32: an exponential or a stride multiplies the rounding of half
        # precision in the forward pass, and overflows it in the backward pass.
        with torch.autocast(features.regression.device.type, enabled=False):
            boxes = self.bbox_pred(full_precision(features.regression))
            boxes = self.box_rule(boxes, self.scales[level] if len(self.scales) else None)
        return logits, boxes, centerness


class QualityPredictors(Predictors):
    """Predictors whose class scores are multiplied by a quality that is read from the box distributions.

    Nothing is detached: the classification loss reaches the boxes. The product is kept as its logit, so that
    losses on logits apply to it.

    Paper: Generalized Focal Loss V2, section 3.2, https://arxiv.org/abs/2011.12885

    Args:
        num_classes, channels, num_levels, box_rule, prior_probability, extra_classes: see
            :class:`Predictors`; there is one prior per cell.
        box_dim: four times the number of bins of one side.
        topk: how many of the largest bin probabilities of a side are read, besides their mean.
        hidden: channels between the two layers that predict the quality.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        channels: int = 256,
        num_levels: int = 5,
        box_dim: int = 68,
        box_rule: BoxRule,
        prior_probability: float = 0.01,
        extra_classes: int = 0,
        topk: int = 4,
        hidden: int = 64,
    ):
        super().__init__(
            num_classes=num_classes,
            channels=channels,
            num_levels=num_levels,
            box_dim=box_dim,
            box_rule=box_rule,
            prior_probability=prior_probability,
            extra_classes=extra_classes,
        )
        if topk < 1:
            raise ValueError(f"topk is {topk}; it has to be at least 1")
        if box_dim % SIDES or box_dim < SIDES * topk:
            raise ValueError(f"box_dim is {box_dim}; it has to be 4 times at least topk={topk} bins")
        self.topk = topk
        self.quality = nn.Sequential(
            nn.Conv2d(SIDES * (topk + 1), hidden, 1), nn.ReLU(inplace=True), nn.Conv2d(hidden, 1, 1)
        )
        for conv in (self.quality[0], self.quality[2]):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)

    def forward(self, features: TaskFeatures, level: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return logits (N, K + E, H, W), logits of the bins (N, 4 * bins, H, W), and None."""
        logits, bins, centerness = super().forward(features, level)
        with torch.autocast(bins.device.type, enabled=False):
            # A sharp distribution has large top probabilities, a flat one small ones.
            top = bins.unflatten(1, (SIDES, -1)).softmax(dim=2).topk(self.topk, dim=2).values
            statistics = torch.cat([top, top.mean(dim=2, keepdim=True)], dim=2).flatten(1, 2)
            quality = self.quality(statistics)
        return product_logits(logits, quality), bins, centerness


def prior_logit(probability: float) -> float:
    """Return the bias that makes a sigmoid start at a probability."""
    if not 0 < probability < 1:
        raise ValueError(f"prior_probability is {probability}; it has to lie between 0 and 1")
    return math.log(probability / (1 - probability))
