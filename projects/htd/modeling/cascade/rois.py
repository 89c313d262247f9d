"""RoIs of a batch, and what all stages of a cascade share about the images they lie in.

Symbols: N images, R RoIs of the whole batch, L pyramid levels, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from htd.layers import ContinuousBoxes, FeatureTable


@dataclass(frozen=True)
class RoIs:
    """Regions of interest of a batch.

    Attributes:
        boxes: (R, 4) XYXY in pixels of the resized input.
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

    Paper: Feature Pyramid Networks, equation 1, with the offset of the published detectors:
    level = floor(log2(sqrt(area) / finest_size + offset)), limited to the levels there are. The
    offset is part of the rule: boxes a millionth below a limit belong to the coarser level.

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
        image_sizes: (height, width) of each image before padding, pixels of the resized input.
        level_rule: assigns boxes to the maps of ``table``.
        shared: results of the context parts by name, such as an image-level vector (N, C) or a table of
            one more map.
        convention: clips and rescales boxes, see :mod:`htd.layers.boxes`.
    """

    table: FeatureTable
    image_sizes: Sequence[tuple[int, int]]
    level_rule: LevelRule
    shared: dict[str, Tensor | FeatureTable] = field(default_factory=dict)
    convention: ContinuousBoxes = field(default_factory=ContinuousBoxes)

    def rois(self, boxes: Sequence[Tensor]) -> RoIs:
        """Join the boxes (R_i, 4) of the N images."""
        joined = torch.cat(list(boxes))
        counts = torch.tensor([len(b) for b in boxes], device=joined.device)
        images = torch.arange(len(boxes), device=joined.device)
        index = torch.repeat_interleave(images, counts, output_size=len(joined))
        return RoIs(joined, index, self.level_rule(joined))


def row_chunks(num_rows: int, rows_at_once: int) -> list[slice]:
    """Split rows evenly into slices of at most ``rows_at_once``; no rows give one empty slice."""
    parts = max(1, math.ceil(num_rows / rows_at_once))
    size = math.ceil(num_rows / parts)
    return [slice(start, start + size) for start in range(0, max(num_rows, 1), max(size, 1))]
