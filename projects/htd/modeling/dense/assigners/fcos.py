"""Assignment of points to the objects around them, by the objects' size."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from htd.errors import UserError
from htd.layers import object_slices
from htd.layers.sampling import full_precision
from htd.modeling.dense.assigners.base import BACKGROUND, Assigner, Assignment, Predicted
from htd.modeling.dense.assigners.claims import farthest_side, nearest_side
from htd.modeling.dense.priors import Priors

RANGES = ((-1, 64), (64, 128), (128, 256), (256, 512), (512, math.inf))


class FCOSAssigner(Assigner):
    """Points find the smallest of the objects that they lie in and that are of their level's size.

    Paper: FCOS, section 3.2; of objects of equal area the first is taken.

    Args:
        ranges: for each level the least and the greatest distance, in pixels, of a point to the farthest
            side of its object; both belong to the range.
        center_radius: a point also lies within this many strides of the object's middle, in x and in y. The
            first version of the paper has no such limit, its later ones have 1.5.
        pairs_at_once: pairs of prior and object held in memory at a time.
    """

    def __init__(
        self,
        *,
        ranges: Sequence[tuple[float, float]] = RANGES,
        center_radius: float = math.inf,
        pairs_at_once: int = 2**22,
    ):
        self.ranges = tuple(ranges)
        self.center_radius = center_radius
        self.pairs_at_once = pairs_at_once

    def __call__(
        self,
        priors: Priors,
        valid: Tensor,
        gt_boxes: Tensor,
        gt_classes: Tensor,
        predicted: Predicted | None = None,
    ) -> Assignment:
        """Assign; see :class:`Assigner`.

        Raises:
            UserError: there is not one range for each level.
        """
        if len(self.ranges) != len(priors.shapes):
            raise UserError(
                f"the FCOSAssigner has {len(self.ranges)} ranges, but there are {len(priors.shapes)} levels; "
                "give one range for each"
            )
        gt_boxes = full_precision(gt_boxes)
        levels = zip(priors.split(full_precision(priors.centers)), priors.strides, self.ranges, strict=True)
        index = [
            self._smallest(points, gt_boxes, self.center_radius * stride, limits)
            for points, stride, limits in levels
        ]
        return Assignment.ungraded(torch.cat(index), valid)

    def _smallest(
        self, points: Tensor, gt_boxes: Tensor, reach: float, limits: tuple[float, float]
    ) -> Tensor:
        """Return the object (n,) of each of the points (n, 2) of a level; ``reach`` is in pixels."""
        smallest = points.new_full((len(points),), math.inf)
        index = torch.full_like(smallest, BACKGROUND, dtype=torch.int64)
        for part in object_slices(len(gt_boxes), len(points), self.pairs_at_once):
            area, row = _areas(points, gt_boxes[part], reach, limits).min(dim=0)
            index = torch.where(area < smallest, row + part.start, index)
            smallest = torch.minimum(smallest, area)
        return index


def _areas(points: Tensor, gt_boxes: Tensor, reach: float, limits: tuple[float, float]) -> Tensor:
    """Return the areas (g, n) of objects (g, 4) for points (n, 2) that may find them, elsewhere infinity."""
    low, high = gt_boxes.split(2, dim=1)
    middle = (low + high) / 2
    region = torch.cat([torch.maximum(low, middle - reach), torch.minimum(high, middle + reach)], dim=1)
    found = nearest_side(points, region[:, None]) > 0
    farthest = farthest_side(points, gt_boxes[:, None])
    found &= (farthest >= limits[0]) & (farthest <= limits[1])
    return torch.where(found, (high - low).prod(dim=1, keepdim=True), math.inf)
