"""The SALT operator, and the towers that put it behind those of any dense head.

Each task looks at nine points of its own around a cell, laid out as a 3x3 grid, row by row. What has 18
channels has the points as y0, x0, y1, x1, ..., y8, x8, in cells, relative to the cell, x to the right and y
downwards: the layout of the offsets of a deformable convolution.

Symbols: N images, C channels, H x W cells of one level.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from detectron2.layers import Conv2d, get_norm
from torch import Tensor, nn

from htd.layers import DeformConv2d
from htd.layers.norms import norm_layer
from htd.layers.sampling import full_precision
from htd.modeling.dense.head import TaskFeatures, Towers
from htd.modeling.dense.predictors import LARGEST_IN_CELLS, bounded_exp

POINTS = 9
SIDES = 4
FACTORS = 14

# Where along the height and the width of the coarse box each point lies: the number of a factor, or one of
# the borders, whose numbers follow those of the factors. The points 1, 3, 5 and 7 lie on the four sides.
_FIRST, _LAST = FACTORS, FACTORS + 1
_ALONG_HEIGHT = (4, _FIRST, 6, 0, 8, 2, 10, _LAST, 12)
_ALONG_WIDTH = (5, 1, 7, _FIRST, 9, _LAST, 11, 3, 13)


def regression_points(distances: Tensor, factors: Tensor) -> Tensor:
    """Return the regression points (N, 18, H, W), all of them in the coarse box.

    The order of the factors is that of the published implementation.

    Paper: Rethinking the Misalignment Problem in Dense Object Detection, section 3,
    https://arxiv.org/abs/2108.12176

    Args:
        distances: (N, 4, H, W) of the sides of the coarse box from the cell: left, top, right, bottom.
        factors: (N, 14, H, W) in [0, 1], where points lie between two sides.
    """
    left, top, right, bottom = distances.split(1, dim=1)
    borders = torch.zeros_like(left), torch.ones_like(left)
    places = torch.cat([factors, *borders], dim=1)
    y = (top + bottom) * places[:, _ALONG_HEIGHT] - top
    x = (left + right) * places[:, _ALONG_WIDTH] - left
    return torch.stack([y, x], dim=2).flatten(1, 2)


def class_points(vectors: Tensor, points: Tensor) -> Tensor:
    """Return the classification points (N, 18, H, W): the regression points, stretched about the cell.

    A point stays in its quadrant. Losses of classes do not move the regression points.

    Paper: Rethinking the Misalignment Problem in Dense Object Detection, section 3,
    https://arxiv.org/abs/2108.12176

    Args:
        vectors: (N, 18, H, W), logarithms of the stretch of each coordinate.
        points: (N, 18, H, W), of regression.
    """
    return bounded_exp(vectors, LARGEST_IN_CELLS) * points.detach()


def tap_offsets(points: Tensor) -> Tensor:
    """Return the offsets (N, 18, H, W) that make a 3x3 convolution around the cell sample at the points."""
    steps = torch.arange(-1, 2, device=points.device, dtype=points.dtype)
    taps = torch.cartesian_prod(steps, steps).flatten()
    return points - taps[:, None, None]


class SALTOperator(nn.Module):
    """Samples the features of each task at nine points that a coarse box lays out.

    Weights start as Normal(0, 0.01) and biases as zero: about half of the coarse distances are then zero, and
    points lie near the cell.

    Paper: Rethinking the Misalignment Problem in Dense Object Detection, section 3,
    https://arxiv.org/abs/2108.12176

    Args:
        channels: C.
        num_levels: number of levels, which have a scalar for their coarse distances each.
        norm: a name that :func:`htd.layers.norms.norm_layer` knows, or a function that makes a norm for
            a number of channels.
        coarse: return the coarse distances, for a loss of their own; otherwise points learn only from the
            losses of the final predictions.
    """

    def __init__(
        self,
        channels: int = 256,
        num_levels: int = 5,
        norm: str | Callable[[int], nn.Module] = "GN",
        coarse: bool = True,
    ):
        super().__init__()
        if num_levels < 1:
            raise ValueError(f"num_levels is {num_levels}; it has to be at least 1")
        self.channels, self.coarse = channels, coarse

        def layer(kind: type[nn.Conv2d], bias: bool) -> nn.Conv2d:
            after = {"norm": get_norm(norm_layer(norm), channels), "activation": nn.ReLU(inplace=True)}
            return kind(channels, channels, 3, padding=1, bias=bias, **after)

        self.coarse_conv, self.vector_conv = layer(Conv2d, True), layer(Conv2d, True)
        self.regression, self.classification = layer(DeformConv2d, False), layer(DeformConv2d, False)
        self.distances = nn.Conv2d(channels, SIDES, 3, padding=1)
        self.factors = nn.Conv2d(channels, FACTORS, 3, padding=1)
        self.vectors = nn.Conv2d(channels, 2 * POINTS, 3, padding=1)
        self.scales = nn.ParameterList(nn.Parameter(torch.ones(())) for _ in range(num_levels))
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.normal_(conv.weight, std=0.01)
                if conv.bias is not None:
                    nn.init.zeros_(conv.bias)

    def forward(
        self, classification: Tensor, regression: Tensor, level: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Sample the features of one level.

        Args:
            classification, regression: (N, C, H, W).
            level: number of the level, from 0.

        Returns:
            Features of classification and of regression, (N, C, H, W), and the coarse distances
            (N, 4, H, W) of the left, top, right and bottom side in cells, at least float32 and never
            negative, or None.
        """
        coarse, stretch = self.coarse_conv(regression), self.vector_conv(classification)
        # Positions in cells need at least float32, also under autocast.
        with torch.autocast(regression.device.type, enabled=False):
            # Of a scalar only the size counts: below 0 all coarse boxes would be inside out.
            distances = self.scales[level].abs() * self.distances(full_precision(coarse)).relu()
            points = regression_points(distances, self.factors(full_precision(coarse)).sigmoid())
            stretched = class_points(self.vectors(full_precision(stretch)), points)
        return (
            self.classification(classification, tap_offsets(stretched)),
            self.regression(regression, tap_offsets(points)),
            distances if self.coarse else None,
        )


class SALTTowers(Towers):
    """Towers whose features the operator samples again.

    Paper: Rethinking the Misalignment Problem in Dense Object Detection, section 3,
    https://arxiv.org/abs/2108.12176

    Args:
        towers: of the head that the operator is put into.
        operator: samples the features of both tasks.
        residual: add the map itself to the class features before the operator reads them, as in the published
            network; it then needs as many channels as they have.
    """

    def __init__(self, *, towers: Towers, operator: SALTOperator, residual: bool = True):
        super().__init__()
        self.towers = towers
        self.operator = operator
        self.residual = residual
        self.coarse = operator.coarse
        self.num_levels = len(operator.scales)

    def forward(self, x: Tensor, level: int) -> TaskFeatures:
        """See :class:`Towers`."""
        features = self.towers(x, level)
        class_features = features.classification + x if self.residual else features.classification
        classification, regression, coarse = self.operator(class_features, features.regression, level)
        return replace(features, classification=classification, regression=regression, coarse=coarse)
