"""Features of each task taken from points that a coarse box lays out: the SALT operator.

Symbols: N images, C channels, H x W cells of a level.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from detectron2.layers import Conv2d, get_norm
from torch import Tensor, nn

from htd.errors import UserError
from htd.layers import DeformConv2d
from htd.layers.norms import norm_layer
from htd.layers.sampling import full_precision
from htd.modeling.dense.checks import check_whole
from htd.modeling.salt.points import FACTORS, POINTS, class_points, offsets, regression_points

SIDES = 4


class SALTOperator(nn.Module):
    """Samples the features of both tasks at nine points each; knows no anchors and no losses.

    Paper: Rethinking the Misalignment Problem in Dense Object Detection (arXiv 2108.12176). From the
    regression features a coarse box is predicted, and where the points of regression lie in it; the points of
    classification are these, stretched by vectors from the class features. Losses of classes do not move the
    points of regression.

    Weights begin as Normal(0, 0.01) and biases as zero: about half of the coarse distances are then zero, and
    points lie near the cell.

    Args:
        channels: C.
        num_levels: levels that have a scale of coarse distances each.
        norm: a name that ``norm_layer`` knows, or a function that makes a norm for so many channels, such as
            :class:`htd.layers.GroupNormOf`.
        coarse: hand out the coarse distances, for a loss of their own; else points learn from the losses of
            what is predicted in the end alone.

    Raises:
        UserError: nobody knows the norm, it does not fit the channels, or a count is no whole number from 1
            on.
    """

    def __init__(
        self,
        channels: int = 256,
        num_levels: int = 5,
        norm: str | Callable[[int], nn.Module] = "GN",
        coarse: bool = True,
    ):
        super().__init__()
        check_whole("model.head.towers.operator.channels", channels, 1)
        check_whole("model.head.towers.operator.num_levels", num_levels, 1)
        self.channels, self.coarse = channels, coarse

        def layer(kind: type[nn.Conv2d], bias: bool) -> nn.Conv2d:
            return kind(channels, channels, 3, padding=1, bias=bias, **_behind(norm, channels))

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
            (N, 4, H, W) of left, top, right and bottom side in cells, at least float32 and never negative;
            None if they are not handed out.
        """
        distances, factors = self.coarse_box(regression, level)
        points = regression_points(distances, factors)
        stretched = class_points(_exactly(self.vectors, self.vector_conv(classification)), points)
        return (
            self.classification(classification, offsets(stretched)),
            self.regression(regression, offsets(points)),
            distances if self.coarse else None,
        )

    def coarse_box(self, regression: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """Return the coarse distances (N, 4, H, W) in cells, and the factors (N, 14, H, W) in [0, 1]."""
        hidden = self.coarse_conv(regression)
        # Of a scale only the size counts: below 0 all coarse boxes would be inside out.
        distances = self.scales[level].abs() * _exactly(self.distances, hidden).relu()
        return distances, _exactly(self.factors, hidden).sigmoid()


def _behind(norm: str | Callable[[int], nn.Module], channels: int) -> dict[str, nn.Module]:
    """Return a fresh norm and a ReLU, as convolutions take them."""
    try:
        made = get_norm(norm_layer(norm), channels)
    except ValueError as error:
        raise UserError(
            f"model.head.towers.operator.norm {norm!r} does not go with {channels} channels ({error}); give "
            "htd.layers.GroupNormOf with a number of groups that divides them"
        ) from error
    return {"norm": made, "activation": nn.ReLU(inplace=True)}


def _exactly(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Convolve in at least float32, also under autocast: what is predicted are positions in cells."""
    with torch.autocast(x.device.type, enabled=False):
        return conv(full_precision(x))
