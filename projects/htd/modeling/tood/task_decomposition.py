"""T-Head, first half: features that both tasks interact in, and what each task takes from them.

Symbols: N images, C channels, H x W cells of a level, S interactive layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.layers import Conv2d
from torch import Tensor, nn

from htd.errors import UserError
from htd.layers.sampling import full_precision
from htd.modeling.dense.checks import check_whole
from htd.modeling.dense.layers import tower_conv
from htd.modeling.dense.towers import TaskFeatures


class TaskDecomposition(nn.Module):
    """Features of one task: interactive layers weighted for each image, then mixed by a 1x1 convolution.

    Paper: TOOD, section 3.1. Group norm and ReLU after the mixture are the published implementation's.
    The weights scale whole layers, so they are multiplied into the convolution instead of the features.

    Args:
        channels: C, of a layer and of the output.
        num_layers: S.
        attention_dim: width between the two layers that give the weights.
        num_groups: groups of the norm.
    """

    def __init__(
        self, *, channels: int = 256, num_layers: int = 6, attention_dim: int = 32, num_groups: int = 32
    ):
        super().__init__()
        self.attention = nn.Sequential(
            nn.Conv2d(channels * num_layers, attention_dim, 1),
            nn.ReLU(),
            nn.Conv2d(attention_dim, num_layers, 1),
        )
        self.reduction = Conv2d(
            channels * num_layers, channels, 1, bias=False, norm=nn.GroupNorm(num_groups, channels)
        )
        for conv in (self.attention[0], self.attention[2]):
            nn.init.normal_(conv.weight, std=0.001)
            nn.init.zeros_(conv.bias)
        nn.init.normal_(self.reduction.weight, std=0.01)

    def weights(self, pooled: Tensor) -> Tensor:
        """Return the weights (N, S) of the layers for their spatial means (N, S * C, 1, 1).

        In at least float32: the gradient of a weight is a sum over all channels of its layer.
        """
        with torch.autocast(pooled.device.type, enabled=False):
            return self.attention(full_precision(pooled)).sigmoid().flatten(1)

    def forward(self, layers: Sequence[Tensor], pooled: Tensor) -> Tensor:
        """Return (N, C, H, W) for S layers (N, C, H, W) and their spatial means (N, S * C, 1, 1)."""
        weights = self.weights(pooled).repeat_interleave(layers[0].shape[1], dim=1)
        folded = self.reduction.weight.flatten(1) * weights[:, None]
        return self.reduction.norm(conv1x1_of_layers(layers, folded)).relu()


class InteractiveTowers(nn.Module):
    """The tower part of T-Head, see :mod:`htd.modeling.dense.towers`.

    Paper: TOOD, section 3.1.

    Args:
        channels: C.
        num_layers: S.
        attention_dim: see :class:`TaskDecomposition`.
        num_groups: groups of the norms.
        num_deformable: so many of the first layers are modulated deformable convolutions.
        offset_groups: groups of channels of those with offsets of their own.

    Raises:
        UserError: there is no layer, more are to be deformable than there are, or groups do not divide the
            channels.
    """

    def __init__(
        self,
        *,
        channels: int = 256,
        num_layers: int = 6,
        attention_dim: int = 32,
        num_groups: int = 32,
        num_deformable: int = 0,
        offset_groups: int = 4,
    ):
        super().__init__()
        check_whole("model.head.towers.num_layers", num_layers, 1)
        check_whole("model.head.towers.num_deformable", num_deformable, 0)
        if num_deformable > num_layers:
            raise UserError(
                f"model.head.towers.num_deformable is {num_deformable}, but there are {num_layers} "
                "interactive layers (num_layers): give at most as many"
            )
        self.channels = channels
        self.interactive = nn.ModuleList(
            tower_conv(
                channels,
                channels,
                num_groups=num_groups,
                deformable=i < num_deformable,
                offset_groups=offset_groups,
            )
            for i in range(num_layers)
        )
        self.classification, self.regression = (
            TaskDecomposition(
                channels=channels, num_layers=num_layers, attention_dim=attention_dim, num_groups=num_groups
            )
            for _ in range(2)
        )

    def forward(self, x: Tensor, level: int) -> TaskFeatures:
        """Return features of both tasks and the S layers behind them, all (N, C, H, W), for any level."""
        layers = []
        for layer in self.interactive:
            x = layer(x)
            layers.append(x)
        pooled = torch.cat([layer.mean(dim=(2, 3), keepdim=True) for layer in layers], dim=1)
        layers = [in_autocast_type(layer) for layer in layers]
        return TaskFeatures(self.classification(layers, pooled), self.regression(layers, pooled), layers)


def in_autocast_type(x: Tensor) -> Tensor:
    """Return x in the type that autocast, if it is on, brings the inputs of convolutions to.

    Group norm may give float32 there, which every convolution of the same map would cast anew.
    """
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x


def conv1x1_of_layers(layers: Sequence[Tensor], weight: Tensor) -> Tensor:
    """Apply a 1x1 convolution to the channels of several layers without joining them.

    Joined, the layers of the finest level are the largest tensor of the head, and written for nothing else.

    Args:
        layers: S maps (N, C, H, W).
        weight: (N, C', S * C), one convolution for each image; or (C', S * C), one for all.

    Returns:
        (N, C', H, W).
    """
    (first, *parts), (layer, *others) = weight.split(layers[0].shape[1], dim=-1), layers
    out = torch.matmul(first.to(layer.dtype), layer.flatten(2))
    for part, other in zip(parts, others, strict=True):
        # Under autocast the first product has its type, which in place the others have to be brought to.
        cells = other.flatten(2).to(out.dtype)
        out.baddbmm_(part.to(out.dtype).expand(len(out), -1, -1), cells)
    return out.unflatten(2, layer.shape[2:])
