"""RoI features at displaced places, for the towers of TSD's head.

Symbols: R RoIs, C channels, S side of the pooled map.
"""

from __future__ import annotations

from torch import Tensor, nn

from htd.errors import UserError
from htd.layers import AlignedRegions, RoundedRegions, offset_roi_pool
from htd.modeling.cascade import RoIContext, RoIs


class OffsetPooler(nn.Module):
    """Pools each RoI, displaced, on the level of the RoI that is not.

    Paper: TSD, section 3.2.

    Args:
        regions: :class:`htd.layers.RoundedRegions` (published) or :class:`htd.layers.AlignedRegions`.
        output_size: S.
        samples: samples a bin and axis.

    Raises:
        UserError: there would be no samples.
    """

    def __init__(self, *, regions: RoundedRegions | AlignedRegions, output_size: int = 7, samples: int = 4):
        super().__init__()
        if samples < 1:
            raise UserError(f"samples={samples} of a pooling by offsets: give at least 1")
        self.settings = {"regions": regions, "output_size": output_size, "samples": samples}

    def forward(self, context: RoIContext, rois: RoIs, offsets: Tensor) -> Tensor:
        """Return (R, C, S, S) for offsets (R, 2) or (R, 2, S, S), (x, y) as fractions of the RoI's size."""
        return offset_roi_pool(
            context.table, rois.boxes, rois.image_index, rois.levels, offsets, **self.settings
        )


class SharedMapOffsetPooler(OffsetPooler):
    """The same on a map that a context part has computed, whatever the RoI's size.

    Args:
        name: key of the map's :class:`htd.layers.FeatureTable` in ``RoIContext.shared``.
        regions, output_size, samples: as in :class:`OffsetPooler`.
    """

    def __init__(
        self,
        *,
        name: str,
        regions: RoundedRegions | AlignedRegions,
        output_size: int = 7,
        samples: int = 4,
    ):
        super().__init__(regions=regions, output_size=output_size, samples=samples)
        self.name = name

    def forward(self, context: RoIContext, rois: RoIs, offsets: Tensor) -> Tensor:
        """Return (R, C, S, S); see :class:`OffsetPooler`."""
        table, level = context.shared[self.name], rois.levels.new_zeros(len(rois))
        return offset_roi_pool(table, rois.boxes, rois.image_index, level, offsets, **self.settings)
