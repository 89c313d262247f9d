"""The head of a dense detector: towers, then predictors, shared by all levels but for a scalar of each.

Symbols: N images, L levels, A priors per cell, P priors of all levels, K classes, D numbers that one box is
decoded from, C channels, H x W cells of one level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.layers import Conv2d
from torch import Tensor, nn

from htd.layers.sampling import full_precision
from htd.modeling.backbones import OffsetPredictingConv2d


@dataclass(frozen=True)
class TaskFeatures:
    """Features of one level for each task.

    Attributes:
        classification: (N, C, H, W).
        regression: (N, C, H, W).
        shared: maps (N, C, H, W) that both tasks were made from; empty if there are none.
        coarse: (N, 4, H, W) distances of the sides of a first box from each cell's point: left, top, right,
            bottom, in cells; None if the towers predict no boxes.
    """

    classification: Tensor
    regression: Tensor
    shared: Sequence[Tensor] = ()
    coarse: Tensor | None = None


@dataclass(frozen=True)
class DensePredictions:
    """Predictions at all priors of a batch, in the order of the priors; at least float32.

    Attributes:
        logits: (N, P, K); their sigmoid is the probability of a class.
        regression: (N, P, D), decoded into boxes by the detector's decoder.
        centerness: (N, P) logits, or None if the head has no such branch.
        coarse: (N, P / A, 4), one entry per cell, as in :class:`TaskFeatures`, or None.
    """

    logits: Tensor
    regression: Tensor
    centerness: Tensor | None = None
    coarse: Tensor | None = None


class Towers(nn.Module):
    """From the map of one level to the features of both tasks.

    Attributes:
        coarse: whether the features come with coarse boxes.
        num_levels: number of levels that it is made for; None for any.
    """

    coarse: bool = False
    num_levels: int | None = None

    def forward(self, x: Tensor, level: int) -> TaskFeatures:
        """Return the features for the map x (N, C, H, W) of a level."""
        raise NotImplementedError


class DenseHead(nn.Module):
    """Runs towers and predictors on every level.

    Args:
        towers: from maps to features of both tasks.
        predictors: from these to predictions, see :class:`htd.modeling.dense.predictors.Predictors`.
    """

    def __init__(self, *, towers: Towers, predictors: nn.Module):
        super().__init__()
        self.towers = towers
        self.predictors = predictors

    @property
    def gives(self) -> set[str]:
        """Names of the optional fields of the predictions that are not None."""
        fields = {"centerness": self.predictors.centerness is not None, "coarse": self.towers.coarse}
        return {name for name, given in fields.items() if given}

    def forward(self, features: Sequence[Tensor]) -> DensePredictions:
        """Return the predictions for L maps (N, C, H_l, W_l), finest first."""
        task_features = [self.towers(x, level) for level, x in enumerate(features)]
        outputs = [self.predictors(x, level) for level, x in enumerate(task_features)]
        logits, boxes, centerness = zip(*outputs, strict=True)
        coarse = [x.coarse for x in task_features]
        num_anchors = self.predictors.num_anchors
        return DensePredictions(
            logits=flatten_levels(logits, num_anchors),
            regression=flatten_levels(boxes, num_anchors),
            centerness=None if centerness[0] is None else flatten_levels(centerness, num_anchors).squeeze(-1),
            coarse=None if coarse[0] is None else flatten_levels(coarse, 1),
        )


def flatten_levels(maps: Sequence[Tensor], num_anchors: int) -> Tensor:
    """Turn L maps (N, A * D, H_l, W_l) into one tensor (N, P, D) in at least float32."""
    levels = []
    for x in maps:
        x = full_precision(x).unflatten(1, (num_anchors, -1))
        levels.append(x.permute(0, 3, 4, 1, 2).flatten(1, 3))
    return torch.cat(levels, dim=1)


class TwinTowers(Towers):
    """Convolutions for classification and, of the same form, for regression.

    Paper: Focal Loss for Dense Object Detection, section 4, https://arxiv.org/abs/1708.02002
    Paper (with group norm): FCOS, section 4, https://arxiv.org/abs/1904.01355

    Args:
        channels: C.
        num_convs: number of convolutions in each tower.
        num_groups: groups of the norm after each convolution; None for a bias and no norm.
        deformable_last: make the last convolution of each tower a modulated deformable one, with the same
            offsets for all channels.
    """

    def __init__(
        self,
        *,
        channels: int = 256,
        num_convs: int = 4,
        num_groups: int | None = 32,
        deformable_last: bool = False,
    ):
        super().__init__()
        if num_convs < deformable_last:
            raise ValueError(f"num_convs is {num_convs}; it has to be at least {int(deformable_last)}")
        self.channels = channels
        settings = [{"num_groups": num_groups} for _ in range(num_convs)]
        if deformable_last:
            settings[-1] |= {"deformable": True, "offset_groups": 1}
        self.classification, self.regression = (
            nn.Sequential(*(tower_conv(channels, channels, **kwargs) for kwargs in settings))
            for _ in range(2)
        )

    def forward(self, x: Tensor, level: int) -> TaskFeatures:
        """See :class:`Towers`; all levels are treated alike."""
        return TaskFeatures(self.classification(x), self.regression(x))


def tower_conv(
    in_channels: int,
    out_channels: int,
    *,
    num_groups: int | None = 32,
    deformable: bool = False,
    offset_groups: int = 4,
) -> nn.Module:
    """Return a 3x3 convolution with group norm and ReLU that keeps the size of a map.

    Weights start as Normal(0, 0.01), biases as zero.

    Args:
        in_channels, out_channels: of the convolution.
        num_groups: groups of the norm, which replaces the bias; None for a bias and no norm.
        deformable: make it a modulated deformable convolution whose offsets start as zero.
        offset_groups: groups of channels that have their own offsets and modulation.
    """
    norm = None if num_groups is None else nn.GroupNorm(num_groups, out_channels)
    activation = nn.ReLU(inplace=True)
    conv = Conv2d(
        in_channels, out_channels, 3, padding=1, bias=norm is None, norm=norm, activation=activation
    )
    nn.init.normal_(conv.weight, std=0.01)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    if not deformable:
        return conv
    if in_channels % offset_groups:
        raise ValueError(f"offset_groups is {offset_groups}; it has to divide the {in_channels} channels")
    return OffsetPredictingConv2d(conv, modulated=True, offset_groups=offset_groups)
