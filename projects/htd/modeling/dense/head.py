"""The head of a dense detector: towers, then predictors, shared by all levels but for one scalar each.

Symbols: N images, L levels, A anchors a cell, P priors of all levels, K classes, D numbers that a box is
decoded from, C channels, H x W cells of a level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from htd.errors import UserError
from htd.layers.sampling import full_precision
from htd.modeling.dense.checks import as_written, check_whole, is_finite
from htd.modeling.dense.predictions import DensePredictions, flattened
from htd.modeling.dense.regression import BoxRule
from htd.modeling.dense.towers import TaskFeatures


class Predictors(nn.Module):
    """Class logits, boxes and maybe centerness of one level.

    Args:
        num_classes: K.
        channels: C of the towers' features.
        num_anchors: A.
        box_dim: D.
        num_levels: L, how many scalars ``box_rule`` gets; 0 if it has none.
        box_rule: applied to what is predicted for boxes, see :mod:`htd.modeling.dense.regression`.
        centerness_from: which of the task features centerness is predicted from, "classification" or
            "regression"; None: it is not.
        prior_probability: class probability that the biases start with, between 0 and 1.
        extra_classes: E, outputs of the classifier beyond the classes. No object has such a class, so they
            learn to be 0; some published networks have one. The post-processing has to drop them.

    Attributes:
        channels, regression_dim: C, and D of what a call returns.
        class_outputs, extra_classes: K + E, and E.

    Raises:
        UserError: a value that is none of these, or a ``box_rule`` without the scalars that it needs.
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
            raise UserError(
                f"model.head.predictors.centerness_from is {centerness_from!r}; centerness is predicted from "
                "classification, from regression, or, with null, not at all"
            )
        check_whole("model.head.predictors.num_anchors", num_anchors, 1)
        check_whole("model.head.predictors.box_dim", box_dim, 1)
        check_whole("model.head.predictors.extra_classes", extra_classes, 0)
        _check_scalars(num_levels, box_rule)
        _check_probability(prior_probability)
        self.channels = channels
        self.class_outputs = num_classes + extra_classes
        self.extra_classes = extra_classes
        self.cls_score = nn.Conv2d(channels, num_anchors * self.class_outputs, 3, padding=1)
        self.bbox_pred = nn.Conv2d(channels, num_anchors * box_dim, 3, padding=1)
        self.centerness = nn.Conv2d(channels, num_anchors, 3, padding=1) if centerness_from else None
        self.scales = nn.ParameterList(nn.Parameter(torch.ones(())) for _ in range(num_levels))
        self.box_rule = box_rule
        self.centerness_from = centerness_from
        self.num_anchors = num_anchors
        self.regression_dim = box_dim
        for conv in filter(None, (self.cls_score, self.bbox_pred, self.centerness)):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)
        nn.init.constant_(self.cls_score.bias, logit(prior_probability))

    def forward(self, features: TaskFeatures, level: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return logits (N, A * (K + E), H, W), boxes (N, A * D, H, W), centerness (N, A, H, W) or None."""
        centerness = None
        if self.centerness is not None:
            centerness = self.centerness(getattr(features, self.centerness_from))
        return self.cls_score(features.classification), self.boxes(features, level), centerness

    def boxes(self, features: TaskFeatures, level: int) -> Tensor:
        """Return what is predicted for boxes (N, A * D, H, W), in at least float32.

        The last convolution is, too, since an exponential or a stride multiplies what half precision rounds,
        and on the way back what it overflows by.
        """
        with torch.autocast(features.regression.device.type, enabled=False):
            predicted = self.bbox_pred(full_precision(features.regression))
            return self.box_rule(predicted, self.scales[level] if len(self.scales) else None)


class DenseHead(nn.Module):
    """Runs towers and predictors on every level.

    Args:
        towers: see :mod:`htd.modeling.dense.towers`.
        predictors: :class:`Predictors` or one with the same call and ``num_anchors``.
    """

    def __init__(self, *, towers: nn.Module, predictors: Predictors):
        super().__init__()
        self.towers = towers
        self.predictors = predictors

    def forward(self, features: Sequence[Tensor]) -> DensePredictions:
        """Return the predictions for L maps (N, C, H_l, W_l), finest first."""
        towers = [self.towers(x, level) for level, x in enumerate(features)]
        levels = [self.predictors(of_tasks, level) for level, of_tasks in enumerate(towers)]
        per_cell = self.predictors.num_anchors
        logits, boxes, centerness = zip(*levels, strict=True)
        coarse = [of_tasks.coarse for of_tasks in towers]
        return DensePredictions(
            logits=flattened(logits, per_cell),
            regression=flattened(boxes, per_cell),
            centerness=None if centerness[0] is None else flattened(centerness, per_cell).squeeze(-1),
            coarse=None if coarse[0] is None else flattened(coarse, 1),
        )


def logit(probability: float) -> float:
    """Return the logit of a probability."""
    return math.log(probability / (1 - probability))


def _check_scalars(num_levels: int, box_rule: BoxRule) -> None:
    check_whole("model.head.predictors.num_levels", num_levels, 0)
    if not num_levels and getattr(box_rule, "scales", False):
        raise UserError(
            "model.head.predictors.num_levels is 0, but its box_rule multiplies by a scalar of each level: "
            "give the number of levels, or a box_rule that has no scalars"
        )


def _check_probability(value: float) -> None:
    if not is_finite(value) or not 0 < value < 1:
        raise UserError(
            f"model.head.predictors.prior_probability is {as_written(value)}: give a number above 0 and "
            "below 1, such as 0.01"
        )
