"""SFA of HTD: a vector for the image, taught by the set of classes in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from detectron2.structures import Instances
from torch import Tensor, nn

from htd.modeling.cascade import GroundTruth


class SemanticAggregation(nn.Module):
    """Convolutions on a coarse map, average pooling, and multi-label classification of the image.

    Paper: HTD, semantic feature aggregation. The published implementation has K + 1 outputs; the
    one of the background is a negative in every image.

    A context part of :class:`htd.modeling.cascade.StagedROIHeads`.

    Args:
        in_feature: name of the map.
        num_classes: K.
        channels: C of the map and of the vector.
        num_convs: 3x3 convolutions with ReLU.
        loss_weight: factor of the loss.
    """

    def __init__(
        self,
        *,
        in_feature: str,
        num_classes: int,
        channels: int = 256,
        num_convs: int = 4,
        loss_weight: float = 3.0,
    ):
        super().__init__()
        self.in_feature = in_feature
        self.num_classes = num_classes
        self.loss_weight = loss_weight
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(num_convs))
        self.fc = nn.Linear(channels, num_classes + 1)
        for conv in self.convs:
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(conv.bias)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(
        self, features: Mapping[str, Tensor], truth: GroundTruth | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the vectors (N, C), gradient attached, and the losses.

        Args:
            features: maps (N, C, H, W) by name.
            truth: its N ``instances`` have ``gt_classes``; None when there is nothing to learn from.

        Returns:
            ``loss_global`` is the mean binary cross-entropy over N * (K + 1) labels; an image
            without objects has no positive label. No losses without truth.
        """
        x = features[self.in_feature]
        for conv in self.convs:
            x = F.relu(conv(x))
        vector = x.mean(dim=(2, 3))
        if truth is None:
            return vector, {}
        return vector, {"loss_global": self.loss(self.fc(vector), truth.instances)}

    def loss(self, logits: Tensor, targets: Sequence[Instances]) -> Tensor:
        """Return the weighted loss of the logits (N, K + 1)."""
        labels = torch.zeros_like(logits, dtype=torch.float32)
        for row, target in zip(labels, targets, strict=True):
            row[target.gt_classes] = 1
        return self.loss_weight * F.binary_cross_entropy_with_logits(logits.float(), labels)
