"""Plugs the SALT operator into any dense head: an adapter around its towers.

Symbols: N images, C channels, H x W cells of a level.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from htd.modeling.dense.towers import TaskFeatures
from htd.modeling.salt.operator import SALTOperator


class SALTTowers(nn.Module):
    """Towers whose features the operator takes anew, see :mod:`htd.modeling.dense.towers`.

    Paper: SALT-Net (arXiv 2108.12176). The residual is the published network's.

    Args:
        towers: of the host.
        operator: see :class:`htd.modeling.salt.operator.SALTOperator`.
        residual: add the map itself to the class features before the operator reads them; it then has to have
            as many channels as they.
    """

    def __init__(self, *, towers: nn.Module, operator: SALTOperator, residual: bool = True):
        super().__init__()
        self.towers = towers
        self.operator = operator
        self.residual = residual

    @property
    def coarse(self) -> bool:
        """Whether the features come with coarse boxes, which a loss can read."""
        return self.operator.coarse

    @property
    def num_levels(self) -> int:
        """How many levels the operator is made for."""
        return len(self.operator.scales)

    def forward(self, x: Tensor, level: int) -> TaskFeatures:
        """Return features of both tasks (N, C, H, W), at their points, and coarse distances (N, 4, H, W)."""
        features = self.towers(x, level)
        of_classes = features.classification + x if self.residual else features.classification
        classification, regression, coarse = self.operator(of_classes, features.regression, level)
        return replace(features, classification=classification, regression=regression, coarse=coarse)
