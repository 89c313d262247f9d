"""Priors, and the boxes that are decoded from what is predicted at them.

A prior is an anchor at a cell of a pyramid level. A point is an anchor that has the point as its center;
detectors of points read nothing but the centers.

Symbols: N images, L levels, A priors per cell, H_l x W_l cells of level l, P priors of all levels (level by
level, then row by row, then cell by cell), D numbers that one box is decoded from. Boxes are XYXY in pixels
of the resized input; as a unit, a cell is the stride of the prior's level.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from torch import Tensor

from htd.layers import expected_value


class Priors:
    """The priors of one batch of feature maps.

    Args:
        boxes: (P, 4).
        shapes: (H_l, W_l) of each level.
        strides: pixels per cell of each level.
        per_cell: A.

    Attributes:
        centers: (P, 2) centers of the boxes as (x, y).
        level_sizes: number of priors of each level.
        prior_strides: (P,) stride of each prior's level, in the dtype of the boxes.
    """

    def __init__(
        self,
        boxes: Tensor,
        shapes: Sequence[tuple[int, int]],
        strides: Sequence[int],
        per_cell: int = 1,
    ):
        self.boxes = boxes
        self.shapes = tuple(shapes)
        self.strides = tuple(strides)
        self.per_cell = per_cell
        self.centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        self.level_sizes = [height * width * per_cell for height, width in self.shapes]
        level_sizes = zip(self.strides, self.level_sizes, strict=True)
        self.prior_strides = torch.cat([boxes.new_full((size,), stride) for stride, size in level_sizes])

    def __len__(self) -> int:
        return len(self.boxes)

    def split(self, values: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
        """Split values that have one entry per prior along ``dim`` into those of the L levels."""
        return values.split(self.level_sizes, dim)


class Decoder:
    """Turns predicted numbers into boxes; stateless."""

    def reads(self, dim: int) -> bool:
        """Tell whether a box can be decoded from D = ``dim`` numbers."""
        raise NotImplementedError

    def __call__(self, regression: Tensor, priors: Priors) -> Tensor:
        """Return boxes (N, P, 4), not clipped, of a regression (N, P, D) in at least float32."""
        raise NotImplementedError


def decoder_name(decoder: Decoder) -> str:
    """Return a decoder's own description, else the name of its class, to compare it with another one."""
    describes_itself = type(decoder).__repr__ is not object.__repr__
    return repr(decoder) if describes_itself else type(decoder).__name__


def boxes_from_distances(centers: Tensor, distances: Tensor) -> Tensor:
    """Return boxes (..., P, 4) with sides at the given distances from points.

    Args:
        centers: (P, 2) as (x, y).
        distances: (..., P, 4) of the left, top, right and bottom side, in pixels.
    """
    return torch.cat([centers - distances[..., :2], centers + distances[..., 2:]], dim=-1)


class DeltaDecoder(Decoder):
    """Boxes as deltas from anchors; D = 4.

    Paper: Rich feature hierarchies for accurate object detection and semantic segmentation, appendix C,
    https://arxiv.org/abs/1311.2524

    Args:
        transform: codes boxes as deltas.
    """

    def __init__(self, *, transform: Box2BoxTransform):
        self.transform = transform

    def reads(self, dim: int) -> bool:
        """See :class:`Decoder`."""
        return dim == 4

    def __call__(self, regression: Tensor, priors: Priors) -> Tensor:
        """See :class:`Decoder`."""
        anchors = priors.boxes.to(regression.dtype).expand(len(regression), -1, -1)
        boxes = self.transform.apply_deltas(regression.flatten(0, 1), anchors.flatten(0, 1))
        return boxes.view(*regression.shape[:2], 4)


class DistanceDecoder(Decoder):
    """Boxes as distances of their sides from points: left, top, right, bottom; D = 4.

    Paper: FCOS: Fully Convolutional One-Stage Object Detection, section 3.1, https://arxiv.org/abs/1904.01355

    Args:
        in_cells: distances are in cells, otherwise in pixels.
    """

    def __init__(self, *, in_cells: bool):
        self.in_cells = in_cells

    def __repr__(self) -> str:
        # Saved with weights: their shapes do not tell pixels from cells.
        return f"{type(self).__name__}(in_cells={self.in_cells})"

    def reads(self, dim: int) -> bool:
        """See :class:`Decoder`."""
        return dim == 4

    def __call__(self, regression: Tensor, priors: Priors) -> Tensor:
        """See :class:`Decoder`."""
        if self.in_cells:
            regression = regression * priors.prior_strides[:, None]
        return boxes_from_distances(priors.centers, regression)


class DistributionDecoder(Decoder):
    """Boxes as distributions over the distances of their sides, in cells; D = 4 times the number of bins.

    A distance is the expectation over 0, 1, ..., bins - 1.

    Paper: Generalized Focal Loss, equations 3 to 5, https://arxiv.org/abs/2006.04388
    """

    def reads(self, dim: int) -> bool:
        """See :class:`Decoder`. A single bin would decode to a distance of zero, whatever is predicted."""
        return dim >= 8 and dim % 4 == 0

    def __call__(self, regression: Tensor, priors: Priors) -> Tensor:
        """See :class:`Decoder`."""
        distances = expected_value(regression.unflatten(-1, (4, -1)))
        return boxes_from_distances(priors.centers, distances * priors.prior_strides[:, None])
