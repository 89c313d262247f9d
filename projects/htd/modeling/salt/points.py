"""The nine points that each task looks at, relative to a cell.

Points are laid out as a 3x3 grid, row by row. What has 18 channels has them as y0, x0, y1, x1, ..., y8, x8,
in cells, x to the right and y downwards: the layout of the offsets of a deformable convolution.

Symbols: N images, H x W cells of a level.
"""

from __future__ import annotations

import torch
from torch import Tensor

from htd.modeling.dense.regression import bounded_exp

POINTS = 9
FACTORS = 14

# Where along the height and along the width of the coarse box each point lies: a factor by its number, or a
# border, the two numbers after the last factor. The points 1, 3, 5, 7 are tied to the four sides.
_FIRST, _LAST = FACTORS, FACTORS + 1
_ALONG_HEIGHT = (4, _FIRST, 6, 0, 8, 2, 10, _LAST, 12)
_ALONG_WIDTH = (5, 1, 7, _FIRST, 9, _LAST, 11, 3, 13)
# Logarithm of how far a point may be stretched, beyond the size of any image in cells.
_LARGEST_STRETCH = 8.0


def regression_points(distances: Tensor, factors: Tensor) -> Tensor:
    """Return the points of regression, all of them in the coarse box.

    Paper: SALT-Net (arXiv 2108.12176); the order of the factors is that of the published implementation.

    Args:
        distances: (N, 4, H, W) of the sides of the coarse box from the cell: left, top, right, bottom.
        factors: (N, 14, H, W) in [0, 1], where points lie between two sides.

    Returns:
        (N, 18, H, W).
    """
    left, top, right, bottom = distances.split(1, dim=1)
    borders = torch.zeros_like(left), torch.ones_like(left)
    places = torch.cat([factors, *borders], dim=1)
    y = (top + bottom) * places[:, _ALONG_HEIGHT] - top
    x = (left + right) * places[:, _ALONG_WIDTH] - left
    return torch.stack([y, x], dim=2).flatten(1, 2)


def class_points(vectors: Tensor, points: Tensor) -> Tensor:
    """Return the points of classification: those of regression, stretched about the cell.

    Paper: SALT-Net (arXiv 2108.12176). A point stays in its quadrant, and no gradient reaches the points that
    it is made from.

    Args:
        vectors: (N, 18, H, W), logarithms of the stretch of each coordinate.
        points: (N, 18, H, W), of regression.

    Returns:
        (N, 18, H, W).
    """
    return bounded_exp(vectors, _LARGEST_STRETCH) * points.detach()


def offsets(points: Tensor) -> Tensor:
    """Return how far points (N, 18, H, W) lie from the taps of a 3x3 convolution around the cell."""
    steps = torch.arange(-1, 2, device=points.device, dtype=points.dtype)
    grid = torch.cartesian_prod(steps, steps).flatten()
    return points - grid[:, None, None]
