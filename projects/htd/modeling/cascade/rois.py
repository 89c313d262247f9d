"""RoIs of a batch, what all stages of a cascade share about the images they lie in, and RoI features.

Symbols: N images of padded size H x W, R RoIs of the whole batch, L pyramid levels, C channels, S side of the
pooled map. Boxes are XYXY in pixels of the resized input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce

import torch
from detectron2.structures import Instances
from torch import Tensor, nn

from htd.layers import ContinuousBoxes, FeatureTable, roi_align


@dataclass(frozen=True)
class GroundTruth:
    """Ground truth of a training batch.

    Attributes:
        instances: N items with ``gt_boxes``, ``gt_classes`` and, where masks are learned, ``gt_masks``.
        sem_seg: (N, H, W) int64, the class of every pixel; None where there are no semantic maps.
    """

    instances: Sequence[Instances]
    sem_seg: Tensor | None = None


@dataclass(frozen=True)
class RoIs:
    """Regions of interest of a batch.

    Attributes:
        boxes: (R, 4).
        image_index: (R,) int64, the image of each box.
        levels: (R,) int64, the pyramid level of each box, counted from the finest map.
    """

    boxes: Tensor
    image_index: Tensor
    levels: Tensor

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, rows: Tensor) -> RoIs:
        return RoIs(self.boxes[rows], self.image_index[rows], self.levels[rows])


class LevelRule:
    """Assigns boxes to pyramid levels by their size.

    level = floor(log2(sqrt(area) / finest_size + offset)), clamped to the levels there are. The
    offset of the published detectors is part of the rule: boxes a millionth below a limit belong to the
    coarser level.

    Paper: Feature Pyramid Networks, equation 1, https://arxiv.org/abs/1612.03144.

    Args:
        num_levels: L.
        finest_size: pixels; boxes below twice this size belong to level 0.
        offset: added to the ratio inside the logarithm.
    """

    def __init__(self, *, num_levels: int = 4, finest_size: float = 56.0, offset: float = 1e-6):
        self.num_levels = num_levels
        self.finest_size = finest_size
        self.offset = offset

    def __call__(self, boxes: Tensor) -> Tensor:
        """Return the level (R,) int64 of each of the boxes (R, 4)."""
        width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
        size = torch.sqrt(width * height)
        level = torch.floor(torch.log2(size / self.finest_size + self.offset))
        # A box that is not finite is read from the finest level, as one without area.
        return level.nan_to_num(nan=0.0).clamp(min=0, max=self.num_levels - 1).long()


@dataclass(frozen=True)
class RoIContext:
    """What is computed once for a batch of images and read by every stage.

    Attributes:
        table: the feature maps that RoI features are pooled from.
        image_sizes: (height, width) of each image before padding.
        level_rule: assigns boxes to the maps of ``table``.
        image_vector: (N, C), a vector for each image; None without the part that gives it.
        semantic_features: table of one map, the features of a semantic branch; None without one.
        box_convention: clips and rescales boxes, see :mod:`htd.layers.boxes`.
    """

    table: FeatureTable
    image_sizes: Sequence[tuple[int, int]]
    level_rule: LevelRule
    image_vector: Tensor | None = None
    semantic_features: FeatureTable | None = None
    box_convention: ContinuousBoxes = field(default_factory=ContinuousBoxes)

    def rois(self, boxes: Sequence[Tensor]) -> RoIs:
        """Join the boxes (R_i, 4) of the N images."""
        joined = torch.cat(list(boxes))
        counts = torch.tensor([len(b) for b in boxes], device=joined.device)
        images = torch.arange(len(boxes), device=joined.device)
        index = torch.repeat_interleave(images, counts, output_size=len(joined))
        return RoIs(joined, index, self.level_rule(joined))

    def image_vectors(self, rois: RoIs) -> Tensor:
        """Return the vector (R, C) of each RoI's image; zeros where images have none."""
        if self.image_vector is None:
            return rois.boxes.new_zeros(len(rois.boxes), self.table.channels)
        return self.image_vector[rois.image_index]


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
        num_levels = len(context.table.maps)
        boxes, image_index = rois.boxes.repeat(num_levels, 1), rois.image_index.repeat(num_levels)
        levels = torch.arange(num_levels, device=rois.levels.device).repeat_interleave(len(rois.levels))
        pooled = roi_align(context.table, boxes, image_index, levels, **self.settings)
        return pooled.unflatten(0, (num_levels, -1))


class ImageVectorPooler(nn.Module):
    """RoI features with the image vector added to every cell.

    Args:
        pooler: gives (R, C, S, S). What it is given besides the RoIs, such as offsets, is passed on.
    """

    def __init__(self, *, pooler: nn.Module):
        super().__init__()
        self.pooler = pooler

    def forward(self, context: RoIContext, rois: RoIs, *more: Tensor) -> Tensor:
        """Return (R, C, S, S)."""
        return self.pooler(context, rois, *more) + context.image_vectors(rois)[:, :, None, None]


class SemanticPooler(nn.Module):
    """RoIAlign of each RoI, whatever its size, on the map of the semantic branch.

    Args:
        output_size: S.
        sampling_ratio, aligned, sub_bins: as in :func:`htd.layers.roi_align`.
    """

    def __init__(self, *, output_size: int, sampling_ratio: int = 0, aligned: bool = True, sub_bins: int = 1):
        super().__init__()
        self.settings = {
            "output_size": output_size,
            "sampling_ratio": sampling_ratio,
            "aligned": aligned,
            "sub_bins": sub_bins,
        }

    def forward(self, context: RoIContext, rois: RoIs) -> Tensor:
        """Return (R, C, S, S)."""
        table, level = context.semantic_features, torch.zeros_like(rois.levels)
        return roi_align(table, rois.boxes, rois.image_index, level, **self.settings)


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
