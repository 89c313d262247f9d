"""BA: the features that boxes are regressed from: of all levels, with the border of the finest.

Symbols: R RoIs, L pyramid levels, C channels, S side of the pooled map. "levels" are the RoIs'
features on every level, (L, R, C, S, S), finest first.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.layers import Conv2d
from torch import Tensor, nn


def border_lines(x: Tensor, edge: int) -> tuple[Tensor, Tensor]:
    """Return which rows (S, 1) and which columns (S,) of (R, C, S, S) are the ``edge`` outer ones, bool."""
    rows, columns = (torch.arange(size, device=x.device) for size in x.shape[-2:])
    outer_rows = (rows < edge) | (rows >= len(rows) - edge)
    return outer_rows[:, None], (columns < edge) | (columns >= len(columns) - edge)


def halve_border(x: Tensor, edge: int) -> Tensor:
    """Halve the ``edge`` outer rows of (R, C, S, S), then as many columns, then double the four corner cells.

    So a corner block gets a quarter, but its outermost cell a half: the published rule. On a single row or
    column corners coincide; such a cell is doubled once.
    """
    rows, columns = border_lines(x, edge)
    weight = (1 - 0.5 * rows.to(x.dtype)) * (1 - 0.5 * columns.to(x.dtype))
    # By position: `*=` reads all cells before it writes, so that equal ones are not doubled again.
    weight[[0, 0, -1, -1], [0, -1, 0, -1]] *= 2
    return x * weight


class LevelWeightedTerm(nn.Module):
    """Sum of the levels' features, weighted by a softmax over levels.

    The same two layers score the spatial mean of each level.

    Paper: HTD, overview figure (adaptive weight learning), https://doi.org/10.1109/TIP.2021.3126423.

    Args:
        channels: C.
        hidden: width between the layers.
    """

    def __init__(self, *, channels: int = 256, hidden: int = 128):
        super().__init__()
        self.attention = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.Tanh(), nn.Conv2d(hidden, 1, 1))

    def weights(self, levels: Tensor) -> Tensor:
        """Return (L, R), summing to one over the levels."""
        mean = levels.mean(dim=(3, 4), keepdim=True)
        return self.attention(mean.flatten(0, 1)).view(levels.shape[:2]).softmax(dim=0)

    def forward(self, levels: Tensor) -> Tensor:
        """Return (R, C, S, S)."""
        weights = self.weights(levels)
        return sum(w[:, None, None, None] * x for w, x in zip(weights, levels, strict=True))


class BorderTerm(nn.Module):
    """The finest level's features in the outer cells, zero inside.

    The published implementation suppresses the interior wholly.

    Paper: HTD, overview figure (texture suppression), https://doi.org/10.1109/TIP.2021.3126423.

    Args:
        edge: width of the border in cells.
    """

    def __init__(self, *, edge: int = 1):
        super().__init__()
        self.edge = edge

    def forward(self, levels: Tensor) -> Tensor:
        """Return (R, C, S, S)."""
        rows, columns = border_lines(levels[0], self.edge)
        return levels[0].masked_fill(~(rows | columns), 0)


class BorderAwareFeatures(nn.Module):
    """Sum of terms, each a function of the levels' features.

    Args:
        terms: such as :class:`LevelWeightedTerm` and :class:`BorderTerm`; none give zeros.
    """

    def __init__(self, *, terms: Sequence[nn.Module]):
        super().__init__()
        self.terms = nn.ModuleList(terms)

    def forward(self, levels: Tensor) -> Tensor:
        """Return (R, C, S, S)."""
        return sum((term(levels) for term in self.terms), start=torch.zeros_like(levels[0]))


class AddFusion:
    """Single-level features + alpha * border-aware features (published).

    Args:
        alpha: weight of the border-aware features.
    """

    def __init__(self, *, alpha: float = 1.0):
        self.alpha = alpha

    def __call__(self, single: Tensor, enhanced: Tensor) -> Tensor:
        """Join two (R, C, S, S) maps."""
        return single + self.alpha * enhanced


class ReplaceBorderFusion:
    """The single-level features lose their border before alpha * border-aware features are added.

    An option of the published implementation that no published config uses.

    Args:
        edge: width of the border in cells.
        alpha: weight of the border-aware features.
    """

    def __init__(self, *, edge: int = 1, alpha: float = 1.0):
        self.edge = edge
        self.alpha = alpha

    def __call__(self, single: Tensor, enhanced: Tensor) -> Tensor:
        """Join two (R, C, S, S) maps."""
        rows, columns = border_lines(single, self.edge)
        return single.masked_fill(rows | columns, 0) + self.alpha * enhanced


class AverageBorderFusion:
    """The single-level features' border is halved, then half the border-aware features are added.

    An option of the published implementation that no published config uses.

    Args:
        edge: width of the border in cells.
    """

    def __init__(self, *, edge: int = 1):
        self.edge = edge

    def __call__(self, single: Tensor, enhanced: Tensor) -> Tensor:
        """Join two (R, C, S, S) maps."""
        return halve_border(single, self.edge) + 0.5 * enhanced


class ConvTower(nn.Sequential):
    """3x3 convolutions without bias; group norm and ReLU behind each, the last without norm.

    Args:
        channels: C of the input.
        hidden: channels between the convolutions, a multiple of ``num_groups``.
        out_channels: channels of the last convolution.
        num_convs: convolutions in all.
        num_groups: groups of the norm.
    """

    def __init__(
        self,
        *,
        channels: int = 256,
        hidden: int = 576,
        out_channels: int = 1024,
        num_convs: int = 4,
        num_groups: int = 36,
    ):
        widths = [channels, *[hidden] * (num_convs - 1), out_channels]
        norms = [nn.GroupNorm(num_groups, hidden) for _ in range(num_convs - 1)] + [nn.Identity()]
        super().__init__(
            *(_conv_norm_relu(a, b, n) for a, b, n in zip(widths[:-1], widths[1:], norms, strict=True))
        )
        self.out_channels = out_channels


def _conv_norm_relu(in_channels: int, out_channels: int, norm: nn.Module) -> Conv2d:
    activation = nn.ReLU(inplace=True)
    layer = Conv2d(in_channels, out_channels, 3, padding=1, bias=False, norm=norm, activation=activation)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer
