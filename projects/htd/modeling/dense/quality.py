"""Predictors that judge a box by how sharp the distributions of its sides are.

Symbols: N images, C channels, H x W cells of a level, K classes, E outputs beyond them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from htd.errors import UserError
from htd.layers import product_logits
from htd.modeling.dense.checks import check_whole
from htd.modeling.dense.head import Predictors
from htd.modeling.dense.regression import BoxRule
from htd.modeling.dense.towers import TaskFeatures

SIDES = 4


class QualityPredictors(Predictors):
    """Predictors whose scores are those of classes times the quality that a box's distributions promise.

    Paper: Generalized Focal Loss V2, section 3.2. Nothing is detached: the loss of the scores reaches the
    boxes. The product is carried as its logit, so the losses on logits serve it.

    Args:
        num_classes, channels, num_levels, box_rule, prior_probability, extra_classes: see
            :class:`Predictors`; there is one prior a cell.
        box_dim: four times the bins of a side.
        topk: bins, the most probable ones of a side, whose probabilities are read, and their mean.
        hidden: width between the two layers that give the quality.

    Raises:
        UserError: ``box_dim`` is not four times at least ``topk`` bins, or a count is no whole number from 1
            on.
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
        check_whole("model.head.predictors.topk", topk, 1)
        check_whole("model.head.predictors.hidden", hidden, 1)
        super().__init__(
            num_classes=num_classes,
            channels=channels,
            num_levels=num_levels,
            box_dim=box_dim,
            box_rule=box_rule,
            prior_probability=prior_probability,
            extra_classes=extra_classes,
        )
        if box_dim % SIDES or box_dim < SIDES * topk:
            raise UserError(
                f"model.head.predictors.box_dim is {box_dim}, its topk {topk}: give four times the bins of a "
                "side, and at least as many bins as are read"
            )
        self.topk = topk
        self.quality = nn.Sequential(
            nn.Conv2d(SIDES * (topk + 1), hidden, 1), nn.ReLU(inplace=True), nn.Conv2d(hidden, 1, 1)
        )
        for conv in (self.quality[0], self.quality[2]):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)

    def forward(self, features: TaskFeatures, level: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return logits (N, K + E, H, W), logits of the bins (N, 4 * bins, H, W), and no centerness."""
        logits, boxes, centerness = super().forward(features, level)
        with torch.autocast(boxes.device.type, enabled=False):
            quality = self.quality(self.statistics(boxes))
        return product_logits(logits, quality), boxes, centerness

    def statistics(self, boxes: Tensor) -> Tensor:
        """Return what the quality is predicted from.

        Args:
            boxes: (N, 4 * bins, H, W) logits of the bins, side by side: left, top, right, bottom.

        Returns:
            (N, 4 * (topk + 1), H, W): of each side the greatest probabilities, falling, then their mean.
        """
        greatest = boxes.unflatten(1, (SIDES, -1)).softmax(dim=2).topk(self.topk, dim=2).values
        return torch.cat([greatest, greatest.mean(dim=2, keepdim=True)], dim=2).flatten(1, 2)
