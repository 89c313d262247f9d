"""Pooling of boxes whose bins are moved by offsets: as a whole, or each bin by its own.

Symbols: R regions, C channels, S bins a side, n samples a bin and axis, K cells a bin and axis. Axes are
(y, x) inside; offsets are given as (x, y), as the published networks predict them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from htd.layers.boxes import as_pixels
from htd.layers.roi_align import bilinear_cells, list_cells, merge_cells, plan_pieces
from htd.layers.sampling import FeatureTable, weighted_gather


def offset_roi_pool(
    table: FeatureTable,
    boxes: Tensor,
    image_index: Tensor,
    levels: Tensor,
    offsets: Tensor,
    *,
    output_size: int,
    regions: RoundedRegions | AlignedRegions,
    samples: int = 4,
) -> Tensor:
    """Average bilinear samples of each box's map in S x S displaced bins.

    Paper: Revisiting the Sibling Head in Object Detector (TSD), section 3.2, https://arxiv.org/abs/2003.07540;
    the operator is deformable RoI pooling, Deformable Convolutional Networks, section 2.2,
    https://arxiv.org/abs/1703.06211.

    Args:
        table (FeatureTable): the maps of the images.
        boxes (Tensor): (R, 4) XYXY areas in pixels of the resized input. They get no gradient.
        image_index (Tensor): (R,) int64, the image of each box.
        levels (Tensor): (R,) int64, the map that each box is read from.
        offsets (Tensor): (R, 2) for a box as a whole or (R, 2, S, S) for each of its bins, first x, then y,
            as fractions of the box's width and height. They get a gradient.
        output_size (int): S.
        regions: where a box lies on its map and which samples count, :class:`RoundedRegions` (as
            published) or :class:`AlignedRegions`.
        samples (int): n.

    Returns:
        Tensor (R, C, S, S) in the dtype of the maps; channels last in memory. Computed in at least
        float32, also under autocast. The backward pass works out again which cells are read, so that
        little more than the maps, the boxes and the offsets is kept for it.

    Note:
        Besides the result, the table's rows and the gradients of all these, the forward and backward pass of
        1000 boxes with 256 channels take at most 100 MB (maps of 800 x 1333 pixels, on a CPU).
    """
    shapes = [(len(boxes), 2), (len(boxes), 2, output_size, output_size)]
    if tuple(offsets.shape) not in shapes:
        raise ValueError(f"offsets are {tuple(offsets.shape)}; they have to be {shapes[0]} or {shapes[1]}")
    with torch.autocast(boxes.device.type, enabled=False):
        rows = table.rows
        first_row, limit = table.locate(image_index, levels)
        scale = boxes.new_tensor([1 / stride for stride in table.strides], dtype=rows.dtype)[levels]
        start, size = regions.extent(boxes.detach().to(rows.dtype), scale)
        # A box that is not finite lies nowhere, and moves nowhere: its offsets get a gradient of zero.
        finite = torch.isfinite(size) & torch.isfinite(start)
        start, size = torch.where(finite, start, torch.nan), torch.where(finite, size, 0)
        rule = _DisplacedBins(first_row, limit, start, size, output_size, samples, regions)
        # Axes are (y, x) from here on; one offset of a whole box serves all its bins.
        moves = (offsets[:, :, None, None] if offsets.dim() == 2 else offsets).to(rows.dtype).flip(1)
        pieces = plan_pieces(rule.cells, output_size)
        out = weighted_gather(rows, pieces, rule, (len(boxes), output_size**2), moves)
    maps = out.unflatten(1, (output_size, output_size)).permute(0, 3, 1, 2)
    return maps.to(table.maps[0].dtype)


class RoundedRegions:
    """The published rule: boxes rounded to pixels, samples at the beginnings of the parts of a bin.

    Source: the published code; the paper does not say. The corners are the numbers of the first and last
    pixels, rounded half away from zero; a region has a least size. Samples more than
    half a cell outside of the map do not count, and a bin is the mean of those that do.

    Args:
        least_size: cells that a region is wide and high at least.
    """

    phase = 0.0

    def __init__(self, *, least_size: float = 0.1):
        self.least_size = least_size

    def extent(self, boxes: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Return start and size (R, 2) of boxes (R, 4) in cells; ``scale`` (R,) is cells a pixel."""
        pixels = as_pixels(boxes)
        # Half away from zero; torch.round takes the even neighbor.
        corners = pixels.sign() * (pixels.abs() + 0.5).floor()
        start = corners[:, [1, 0]] * scale[:, None] - 0.5
        end = (corners[:, [3, 2]] + 1) * scale[:, None] - 0.5
        return start, (end - start).clamp(min=self.least_size)

    def read(self, position: Tensor, limit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Find the cells that samples on one axis are read from.

        Args:
            position: (..., n) in cells, their centers being whole numbers.
            limit: cells of the axis, broadcast to it.

        Returns:
            The lower cell of each sample, and its weight and that of the cell above it, (..., n) each. The
            weights of a bin add up to 1, or to 0 if none of its samples counts. At whole positions the next
            cell gets no weight and the position no gradient, as for positions beyond the outermost centers.
        """
        counts = (position >= -0.5) & (position <= limit - 0.5)
        # What does not count may not be finite; it must name a cell all the same.
        position = torch.minimum(torch.where(counts, position, 0).clamp(min=0), limit - 1)
        low = position.detach().floor()
        upper = position - low
        upper = torch.where(upper > 0, upper, 0)
        share = counts.to(position.dtype) / counts.sum(dim=-1, keepdim=True).clamp(min=1)
        return low.to(limit.dtype), (1 - upper) * share, upper * share


class AlignedRegions:
    """RoIAlign's rule with half-pixel alignment, for boxes whose corners are places between pixels.

    Without offsets this is :func:`htd.layers.roi_align` with ``aligned=True`` and ``sampling_ratio=n``:
    samples in the middles of the parts of a bin, zero beyond one cell outside of the map.
    """

    phase = 0.5

    def extent(self, boxes: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Return start and size (R, 2) of boxes (R, 4) in cells; ``scale`` (R,) is cells a pixel."""
        corners = boxes * scale[:, None] - 0.5
        return corners[:, [1, 0]], corners[:, [3, 2]] - corners[:, [1, 0]]

    def read(self, position: Tensor, limit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Find the cells that samples are read from; as :meth:`RoundedRegions.read`."""
        low, lower, upper = bilinear_cells(position, limit)
        return low, lower / position.shape[-1], upper / position.shape[-1]


@dataclass
class _DisplacedBins:
    """Where displaced bins are read, and with what weights.

    Attributes:
        first_row (Tensor): (R,) number of the first row of each region's map.
        limit (Tensor): (R, 2) size of that map.
        start, size (Tensor): (R, 2) in cells.
        bins, samples (int): S and n.
        regions: the rule of the samples.
        cells (Tensor): (R, 2) that a bin reads along an axis: those between its samples, or two for each.
    """

    first_row: Tensor
    limit: Tensor
    start: Tensor
    size: Tensor
    bins: int
    samples: int
    regions: RoundedRegions | AlignedRegions
    cells: Tensor = field(init=False)

    def __post_init__(self):
        reach = self.size.abs() * ((self.samples - 1) / (self.samples * self.bins))
        between = reach.ceil() + 2
        self.cells = torch.minimum(between.clamp(max=2 * self.samples).long(), self.limit.long())

    def __call__(self, piece: Tensor, moves: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows and weights (r, S * S, K * K) of the bins of regions ``piece`` (r,).

        ``moves`` is (R, 2, S, S) or (R, 2, 1, 1) by (y, x), fractions of the region's size.
        """
        start, size = (t[piece][:, :, None, None, None] for t in (self.start, self.size))
        bin_size = size / self.bins
        each = torch.arange(self.bins, device=size.device)
        number = torch.stack(torch.meshgrid(each, each, indexing="ij"))[..., None]
        sample = torch.arange(self.samples, device=size.device) + self.regions.phase
        # Samples ascend in a bin, also where the corners of a box are exchanged: merging cells needs that.
        sample = torch.where(size < 0, sample.flip(0), sample)
        place = start + number * bin_size + sample * bin_size / self.samples
        position = place + moves[piece][..., None] * size  # (r, 2, S, S, n)
        most = self.cells[piece].amax(dim=0).tolist()
        (y, weight_y), (x, weight_x) = (self._axis(piece, position, axis, most[axis]) for axis in (0, 1))
        width = self.limit[piece, 1][:, None, None, None]
        y = self.first_row[piece][:, None, None, None] + y * width
        index = y[..., :, None] + x[..., None, :]
        weight = weight_y[..., :, None] * weight_x[..., None, :]
        return index.flatten(3).flatten(1, 2), weight.flatten(3).flatten(1, 2)

    def _axis(self, piece: Tensor, position: Tensor, axis: int, num_cells: int) -> tuple[Tensor, Tensor]:
        """Return cells and weights (r, S, S, ``num_cells``) along one axis."""
        limit = self.limit[piece, axis][:, None, None, None]
        low, lower, upper = self.regions.read(position[:, axis], limit)
        merge = merge_cells if num_cells < 2 * self.samples else list_cells
        cell, weight = merge(low, lower, upper, num_cells)
        return torch.minimum(cell, limit - 1), weight  # what would lie beyond has weight 0
