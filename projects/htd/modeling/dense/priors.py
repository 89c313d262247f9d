"""The places that a dense detector predicts at: one or more anchors at each cell of each level.

A point is an anchor whose middle is the point; detectors of points read the middle alone.

Symbols: L levels; A anchors a cell; H_l x W_l cells of level l; P priors of all levels, level by level, there
row by row, there cell by cell. Boxes are XYXY in pixels of the resized input; sizes are (height, width).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.structures import Boxes
from torch import Tensor

from htd.layers import within_padding


@dataclass(frozen=True)
class Priors:
    """Priors of one batch of feature maps.

    Attributes:
        boxes: (P, 4).
        shapes: (H_l, W_l) of each level.
        strides: pixels a cell of each level.
        per_cell: A.
    """

    boxes: Tensor
    shapes: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]
    per_cell: int = 1

    @classmethod
    def of(cls, anchors: Sequence[Boxes], maps: Sequence[Tensor], strides: Sequence[int]) -> Priors:
        """Return the priors that an anchor generator of Detectron2 has made for L maps (N, C, H_l, W_l)."""
        shapes = tuple(tuple(x.shape[-2:]) for x in maps)
        boxes = torch.cat([level.tensor for level in anchors])
        cells = sum(height * width for height, width in shapes)
        return cls(boxes, shapes, tuple(strides), len(boxes) // cells)

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def centers(self) -> Tensor:
        """Middles of the boxes (P, 2), as (x, y)."""
        return (self.boxes[:, :2] + self.boxes[:, 2:]) / 2

    @property
    def level_sizes(self) -> list[int]:
        """Priors of each level."""
        return [height * width * self.per_cell for height, width in self.shapes]

    @property
    def stride_of_each(self) -> Tensor:
        """Stride of each prior's level (P,), in the type of the boxes."""
        sizes = zip(self.strides, self.level_sizes, strict=True)
        return torch.cat([self.boxes.new_full((size,), stride) for stride, size in sizes])

    def split(self, values: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
        """Split values with P rows along ``dim``, one a prior, into those of the L levels."""
        return values.split(self.level_sizes, dim)

    def valid(self, image_size: tuple[int, int], pad_divisor: int) -> Tensor:
        """Return which priors (P,) lie in the cells that an image alone would have, bool.

        In a batch with a larger image the cells beyond belong to the padding alone.

        Args:
            image_size: of the image without padding.
            pad_divisor: an image's own sides are padded to multiples of this.
        """
        return within_padding(self.split(self.boxes), self.strides, image_size, pad_divisor)
