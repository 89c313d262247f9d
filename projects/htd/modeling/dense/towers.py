"""What lies between a pyramid level and the predictors of a dense head.

Symbols: N images, C channels, H x W cells of a level. A tower part is called with a map (N, C, H, W) and the
number of its level, and returns :class:`TaskFeatures`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from htd.modeling.dense.layers import tower_conv


@dataclass(frozen=True)
class TaskFeatures:
    """Features of one level, for each task.

    Attributes:
        classification: (N, C, H, W).
        regression: (N, C, H, W).
        shared: maps (N, C, H, W) that both tasks were made from; none where there are none.
    """

    classification: Tensor
    regression: Tensor
    shared: Sequence[Tensor] = ()


class TwinTowers(nn.Module):
    """Convolutions for classification and, of the same form, for regression.

    Paper: Focal Loss for Dense Object Detection, section 4; with group norm FCOS, section 4.

    Args:
        channels: C.
        num_convs: of each tower.
        num_groups: groups of the norm behind each convolution; None: no norm, and a bias.
    """

    def __init__(self, *, channels: int = 256, num_convs: int = 4, num_groups: int | None = 32):
        super().__init__()
        self.classification, self.regression = (
            nn.Sequential(*(tower_conv(channels, channels, num_groups=num_groups) for _ in range(num_convs)))
            for _ in range(2)
        )

    def forward(self, x: Tensor, level: int) -> TaskFeatures:
        """Return the features of both tasks; every level is treated alike."""
        return TaskFeatures(self.classification(x), self.regression(x))
