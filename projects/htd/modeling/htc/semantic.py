"""The semantic branch: a segmentation of the image whose features help boxes and masks.

Symbols: N images of padded size H x W, L pyramid levels, C channels, s stride of the fused map,
K semantic classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from htd.layers import FeatureTable
from htd.modeling.cascade import GroundTruth, init_conv


class MeanOverLabeled:
    """The mean over the pixels that have a label, behind the published results."""

    def __call__(self, total: Tensor, labeled: Tensor) -> Tensor:
        """Divide the summed loss by the count of ``labeled`` (N, H/s, W/s) bool; 0 if none is."""
        return total / labeled.sum().clamp(min=1)


class MeanOverAll:
    """The sum over labeled pixels divided by the number of all, ignored ones included."""

    def __call__(self, total: Tensor, labeled: Tensor) -> Tensor:
        """Divide the summed loss by the number of cells of ``labeled`` (N, H/s, W/s)."""
        return total / max(1, labeled.numel())


class FusedSemanticHead(nn.Module):
    """Joins the pyramid at one level, and gives features for RoIs and semantic logits.

    Paper: Hybrid Task Cascade for Instance Segmentation, section 3.2, https://arxiv.org/abs/1901.07518.

    A context part of :class:`htd.modeling.cascade.StagedROIHeads`: the features go to
    :class:`htd.modeling.cascade.SemanticPooler`.

    Args:
        in_features: names of the L maps, finest first.
        fused_feature: the one of them that gives the resolution.
        stride: s, pixels of the resized input a cell of that map.
        num_semantic_classes: K, or K - 1 with ``background``.
        background: one more class, the last, for pixels of no object.
        channels: C of the maps and of the features.
        num_convs: 3x3 convolutions with ReLU.
        ignore_value: label of pixels that are not learned from.
        loss_weight: factor of the loss.
        loss_mean: :class:`MeanOverLabeled` or :class:`MeanOverAll`.
    """

    def __init__(
        self,
        *,
        in_features: Sequence[str],
        fused_feature: str,
        stride: int,
        num_semantic_classes: int,
        loss_mean,
        background: bool = False,
        channels: int = 256,
        num_convs: int = 4,
        ignore_value: int = 255,
        loss_weight: float = 0.2,
    ):
        super().__init__()
        self.in_features = list(in_features)
        self.fused_feature = fused_feature
        self.stride = stride
        self.has_background = background
        self.num_labels = num_semantic_classes + background
        self.ignore_value = ignore_value
        self.loss_weight = loss_weight
        self.loss_mean = loss_mean
        self.laterals = nn.ModuleList(init_conv(nn.Conv2d(channels, channels, 1)) for _ in self.in_features)
        self.convs = nn.ModuleList(
            init_conv(nn.Conv2d(channels, channels, 3, padding=1)) for _ in range(num_convs)
        )
        self.embedding = init_conv(nn.Conv2d(channels, channels, 1))
        self.predictor = init_conv(nn.Conv2d(channels, self.num_labels, 1))

    def forward(
        self, features: Mapping[str, Tensor], truth: GroundTruth | None = None
    ) -> tuple[FeatureTable, dict[str, Tensor]]:
        """Return the features for RoIs, gradient attached, and the losses.

        Args:
            features: maps (N, C, H_l, W_l) by name.
            truth: with ``sem_seg``, or None when there is nothing to learn from.

        Returns:
            A table of one map (N, C, H/s, W/s), and ``loss_sem_seg``; no losses without truth.

        Raises:
            ValueError: the ground truth has no semantic maps, or not at the size of the padded images.
        """
        x = self.fuse(features)
        table = FeatureTable([F.relu(self.embedding(x))], [self.stride])
        if truth is None:
            return table, {}
        return table, {"loss_sem_seg": self.loss(self.predictor(x), truth.sem_seg)}

    def fuse(self, features: Mapping[str, Tensor]) -> Tensor:
        """Return the joined map (N, C, H/s, W/s) that features and logits are computed from."""
        size = features[self.fused_feature].shape[-2:]
        x = 0
        for name, lateral in zip(self.in_features, self.laterals, strict=True):
            level = features[name]
            if name != self.fused_feature:
                level = F.interpolate(level, size, mode="bilinear", align_corners=True)
            x = x + F.relu(lateral(level))
        for conv in self.convs:
            x = F.relu(conv(x))
        return x

    def labels(self, sem_seg: Tensor) -> Tensor:
        """Return the labels (N, H/s, W/s) of maps (N, H, W): the top left pixel of every s x s."""
        return sem_seg[:, :: self.stride, :: self.stride]

    def loss(self, logits: Tensor, sem_seg: Tensor | None) -> Tensor:
        """Return the weighted cross-entropy of logits (N, K, H/s, W/s) for maps (N, H, W).

        If every pixel is ignored it is zero and still depends on all parameters.
        """
        if sem_seg is None:
            raise ValueError("the ground truth has no sem_seg")
        labels = self.labels(sem_seg)
        if labels.shape[-2:] != logits.shape[-2:]:
            raise ValueError(
                f"sem_seg is {tuple(sem_seg.shape[-2:])} pixels (height, width), which does not fit "
                f"{tuple(logits.shape[-2:])} cells of {self.stride} pixels"
            )
        labeled = labels != self.ignore_value
        with torch.autocast(device_type=logits.device.type, enabled=False):
            total = F.cross_entropy(logits.float(), labels, ignore_index=self.ignore_value, reduction="sum")
            return self.loss_weight * self.loss_mean(total, labeled)
