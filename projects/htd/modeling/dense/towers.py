"""What lies between a pyramid level and the predictors of a dense head.

Symbols: N images, C channels, H x W cells of a level. A tower part is called with a map (N, C, H, W) and the
number of its level, and returns :class:`TaskFeatures`; if it says ``channels``, it takes and gives so many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from htd.errors import UserError
from htd.modeling.dense.checks import check_whole
from htd.modeling.dense.layers import tower_conv


@dataclass(frozen=True)
class TaskFeatures:
    """Features of one level, for each task.

    Attributes:
        classification: (N, C, H, W).
        regression: (N, C, H, W).
        shared: maps (N, C, H, W) that both tasks were made from; none where there are none.
        coarse: distances (N, 4, H, W) of the sides of a first box from each cell's point: left, top, right,
            bottom, in cells; None where nothing is predicted so early.
    """

    classification: Tensor
    regression: Tensor
    shared: Sequence[Tensor] = ()
    coarse: Tensor | None = None


class TwinTowers(nn.Module):
    """Convolutions for classification and, of the same form, for regression.

    Paper: Focal Loss for Dense Object Detection, section 4; with group norm FCOS, section 4.

    Args:
        channels: C.
        num_convs: of each tower.
        num_groups: groups of the norm behind each convolution; None: no norm, and a bias.
        deformable_last: make the last convolution of each tower a modulated deformable one, with the same
            offsets for all channels.

    Raises:
        UserError: ``num_convs`` is no whole number from 0 on, the last of none is to be deformable, or the
            groups do not divide the channels.
    """

    def __init__(
        self,
        *,
        channels: int = 256,
        num_convs: int = 4,
        num_groups: int | None = 32,
        deformable_last: bool = False,
    ):
        super().__init__()
        check_whole("num_convs of TwinTowers (model.head.towers)", num_convs, 0)
        if deformable_last and not num_convs:
            raise UserError(
                "deformable_last of TwinTowers (model.head.towers) is true, but num_convs is 0: give each "
                "tower a convolution, or set deformable_last to false"
            )
        self.channels = channels
        kinds = [{}] * num_convs
        if deformable_last:
            kinds[-1] = {"deformable": True, "offset_groups": 1}
        self.classification, self.regression = (
            nn.Sequential(*(tower_conv(channels, channels, num_groups=num_groups, **kind) for kind in kinds))
            for _ in range(2)
        )

    def forward(self, x: Tensor, level: int) -> TaskFeatures:
        """Return the features of both tasks for x (N, C, H, W); every level is treated alike."""
        return TaskFeatures(self.classification(x), self.regression(x))
