"""RoI features for the heads of a cascade: one level, all levels, and image-level vectors.

Symbols: R RoIs, N images, L levels, C channels, S side of the pooled map.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from htd.layers import roi_align
from htd.modeling.cascade.rois import RoIContext, RoIs


class SingleLevelPooler(nn.Module):
    """RoIAlign of each RoI on its own pyramid level.

    Args:
        output_size: S.
        sampling_ratio: samples a bin and axis; 0 takes as many as the RoI's size asks for.
        aligned: half-pixel shift of RoIAlign.
    """

    def __init__(self, *, output_size: int = 7, sampling_ratio: int = 0, aligned: bool = True):
        super().__init__()
        self.settings = {
            "output_size": output_size,
            "sampling_ratio": sampling_ratio,
            "aligned": aligned,
        }

    def forward(self, context: RoIContext, rois: RoIs) -> Tensor:
        """Return (R, C, S, S)."""
        return roi_align(context.table, rois.boxes, rois.image_index, rois.levels, **self.settings)


class LegacyRoIAlignPooler(nn.Module):
    """RoIAlign of each RoI on its own level, without a half-pixel shift: the older published detectors' form.

    Half a cell to the right of and below the aligned form, as torchvision's with ``aligned=False``; but there
    a RoI is at least one cell wide and high, here it may be smaller.

    Args:
        output_size, sampling_ratio: as in :class:`SingleLevelPooler`.
    """

    def __init__(self, *, output_size: int = 7, sampling_ratio: int = 2):
        super().__init__()
        self.settings = {"output_size": output_size, "sampling_ratio": sampling_ratio}

    def forward(self, context: RoIContext, rois: RoIs) -> Tensor:
        """Return (R, C, S, S)."""
        half_cell = rois.boxes.new_tensor(context.table.strides)[rois.levels] / 2
        boxes = rois.boxes + half_cell[:, None]
        return roi_align(context.table, boxes, rois.image_index, rois.levels, **self.settings, aligned=True)


class AllLevelsPooler(SingleLevelPooler):
    """RoIAlign of each RoI on every pyramid level."""

    def forward(self, context: RoIContext, rois: RoIs) -> Tensor:
        """Return (L, R, C, S, S), finest level first."""
        num_levels = context.table.num_levels
        boxes, image_index = rois.boxes.repeat(num_levels, 1), rois.image_index.repeat(num_levels)
        levels = torch.arange(num_levels, device=rois.levels.device).repeat_interleave(len(rois))
        pooled = roi_align(context.table, boxes, image_index, levels, **self.settings)
        return pooled.view(num_levels, len(rois), *pooled.shape[1:])


class NoVector(nn.Module):
    """Stands for an image-level vector where there is none: zeros."""

    def forward(self, context: RoIContext, rois: RoIs) -> Tensor:
        """Return zeros (R, C)."""
        return rois.boxes.new_zeros(len(rois), context.table.channels)


class ImageVector(nn.Module):
    """Hands each RoI the vector that a context part has computed for its image.

    Args:
        name: key of the vector (N, C) in :attr:`RoIContext.shared`.
    """

    def __init__(self, *, name: str):
        super().__init__()
        self.name = name

    def forward(self, context: RoIContext, rois: RoIs) -> Tensor:
        """Return (R, C)."""
        return context.shared[self.name][rois.image_index]


class VectorAugmentedPooler(nn.Module):
    """RoI features with an image-level vector added to every cell.

    Args:
        pooler: gives (R, C, S, S). What it is given besides the RoIs, such as offsets, is passed on.
        vector: gives (R, C).
    """

    def __init__(self, *, pooler: nn.Module, vector: nn.Module):
        super().__init__()
        self.pooler = pooler
        self.vector = vector

    def forward(self, context: RoIContext, rois: RoIs, *more: Tensor) -> Tensor:
        """Return (R, C, S, S)."""
        return self.pooler(context, rois, *more) + self.vector(context, rois)[:, :, None, None]


class SharedMapPooler(nn.Module):
    """RoIAlign of each RoI, whatever its size, on a map that a context part has computed.

    Args:
        name: key of the map's :class:`htd.layers.FeatureTable` in :attr:`RoIContext.shared`.
        output_size: S.
        sampling_ratio, aligned, sub_bins: as in :func:`htd.layers.roi_align`.
    """

    def __init__(
        self,
        *,
        name: str,
        output_size: int,
        sampling_ratio: int = 0,
        aligned: bool = True,
        sub_bins: int = 1,
    ):
        super().__init__()
        self.name = name
        self.settings = {
            "output_size": output_size,
            "sampling_ratio": sampling_ratio,
            "aligned": aligned,
            "sub_bins": sub_bins,
        }

    def forward(self, context: RoIContext, rois: RoIs) -> Tensor:
        """Return (R, C, S, S)."""
        level = torch.zeros_like(rois.levels)
        return roi_align(context.shared[self.name], rois.boxes, rois.image_index, level, **self.settings)


class SummedPoolers(nn.Module):
    """The sum of what several poolers give.

    Args:
        poolers: each gives (R, C, S, S). What they are given besides the RoIs, such as offsets, is passed on.
    """

    def __init__(self, *, poolers: Sequence[nn.Module]):
        super().__init__()
        self.poolers = nn.ModuleList(poolers)

    def forward(self, context: RoIContext, rois: RoIs, *more: Tensor) -> Tensor:
        """Return (R, C, S, S)."""
        return reduce(torch.add, (pooler(context, rois, *more) for pooler in self.poolers))
