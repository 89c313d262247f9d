"""RoIAlign of boxes on the levels of a feature pyramid.

Symbols: R regions, L levels, C channels, S bins a side, n samples a bin and axis, K cells a bin and axis.
Axes are always (y, x).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import roi_align as torchvision_roi_align

from htd.layers.sampling import FeatureTable, full_precision, prefers_gather, weighted_gather

# Cells read by the regions of one piece: 1 MiB of row numbers and 1 MiB of float32 weights. A larger region
# is a piece alone; it reads hardly more cells than it covers.
_CELLS_AT_ONCE = 2**18


def roi_align(
    table: FeatureTable,
    boxes: Tensor,
    image_index: Tensor,
    levels: Tensor,
    *,
    output_size: int,
    sampling_ratio: int = 0,
    aligned: bool = True,
    sub_bins: int = 1,
) -> Tensor:
    """Average bilinear samples of each box's map in S x S bins; equal to torchvision's operator.

    Paper: Mask R-CNN, section 3 (RoIAlign), https://arxiv.org/abs/1703.06870. ``aligned`` is the later
    half-pixel correction.

    Args:
        table (FeatureTable): the maps of the images.
        boxes (Tensor): (R, 4) XYXY in pixels of the resized input. They get no gradient.
        image_index (Tensor): (R,) int64, the image of each box.
        levels (Tensor): (R,) int64, the map that each box is read from. Repeat a box to read several.
        output_size (int): S.
        sampling_ratio (int): n; 0 takes for each box and axis as many as a bin has cells, rounded up.
        aligned (bool): shift by half a cell, so that cell i has its center at i + 0.5. Without it (the legacy
            form) boxes are also at least one cell wide and high.
        sub_bins (int): each bin is the mean of sub_bins x sub_bins smaller ones: the same as pooling
            S * sub_bins bins a side and then averaging them; the gather does both at once.

    Returns:
        Tensor (R, C, S, S) in the dtype of the maps; channels last in memory on a CPU. Samples more than one
        cell outside of the map count as zero. With ``sampling_ratio=0`` a box without width or height gives
        zeros. Computed in at least float32, also under autocast.
    """
    boxes = boxes.detach()
    if not prefers_gather(table.maps[0]):
        return pool_by_torchvision(
            table, boxes, image_index, levels, output_size, sampling_ratio, aligned, sub_bins
        )
    with torch.autocast(boxes.device.type, enabled=False):
        rows = table.rows
        first_row, limit = table.locate(image_index, levels)
        scale = boxes.new_tensor([1 / stride for stride in table.strides], dtype=rows.dtype)[levels]
        corners = boxes.to(rows.dtype) * scale[:, None] - (0.5 if aligned else 0.0)
        start, size = corners[:, [1, 0]], corners[:, [3, 2]] - corners[:, [1, 0]]
        bin_size = (size if aligned else size.clamp(min=1)) / output_size
        if sampling_ratio:
            count = torch.full_like(limit, sampling_ratio * sub_bins)
            cells, read = 2 * count, list_cells
        else:
            # As many samples as a bin has cells, rounded up; 0 if that is not finite.
            count = (bin_size / sub_bins).ceil().clamp(min=0)
            count = torch.where(torch.isfinite(count), count, 0).long() * sub_bins
            cells, read = torch.minimum(count + (count > 0), limit), merge_cells
        rule = _RegionRule(first_row, limit, start, bin_size, count, cells, output_size, read)
        pieces = plan_pieces(cells, output_size)
        out = weighted_gather(rows, pieces, rule, (len(boxes), output_size**2))
    maps = out.unflatten(1, (output_size, output_size)).permute(0, 3, 1, 2)
    return maps.to(table.maps[0].dtype)


def pool_by_torchvision(
    table, boxes, image_index, levels, output_size, sampling_ratio=0, aligned=True, sub_bins=1
) -> Tensor:
    """`roi_align` by torchvision's kernels, a level at a time."""
    maps = [full_precision(m) for m in table.maps]
    regions = torch.cat([image_index[:, None].to(maps[0].dtype), boxes.to(maps[0].dtype)], dim=1)
    chosen, parts = [], []
    with torch.autocast(boxes.device.type, enabled=False):
        for level, (features, stride) in enumerate(zip(maps, table.strides, strict=True)):
            chosen.append((levels == level).nonzero()[:, 0])
            pooled = torchvision_roi_align(
                features, regions[chosen[-1]], output_size * sub_bins, 1 / stride, sampling_ratio, aligned
            )
            parts.append(_average(pooled, sub_bins))
        # Neither this nor the average keeps values for the backward pass, as index_copy and avg_pool2d would.
        out = torch.cat(parts).index_select(0, torch.cat(chosen).argsort())
    return out.to(table.maps[0].dtype)


def _average(maps: Tensor, side: int) -> Tensor:
    """Average (R, C, S * side, S * side) over squares of ``side`` cells."""
    if side == 1:
        return maps
    return maps.unflatten(3, (-1, side)).unflatten(2, (-1, side)).mean(dim=(3, 5))


def bilinear_cells(position: Tensor, limit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the lower cell of each position on an axis of ``limit`` cells, and both cells' weights.

    Positions up to one cell outside read the outermost cell, further ones read nothing.
    """
    inside = (position >= -1) & (position <= limit)
    position = torch.where(inside, position, 0).clamp(min=0)
    low = torch.minimum(position.floor(), limit - 1)
    upper = torch.where(inside & (low < limit - 1), position - low, 0)
    return low.to(limit.dtype), inside.to(upper.dtype) - upper, upper


def list_cells(low: Tensor, lower: Tensor, upper: Tensor, num_cells: int) -> tuple[Tensor, Tensor]:
    """Return both cells of each sample (R, 2, S, n) and their weights, K = 2n ``num_cells``: (R, 2, S, K)."""
    cell, weight = torch.stack([low, low + 1], dim=-1), torch.stack([lower, upper], dim=-1)
    return cell.view(*low.shape[:-1], num_cells), weight.view(*low.shape[:-1], num_cells)


def merge_cells(low: Tensor, lower: Tensor, upper: Tensor, num_cells: int) -> tuple[Tensor, Tensor]:
    """Add up the weights of samples (R, 2, S, n) by cell: ``num_cells`` K successive cells, (R, 2, S, K).

    Samples at most one cell apart lie in n + 1 successive cells, and in no more than the axis has. So a bin
    reads at most (n + 1)^2 rows, where sample by sample it would read 4 n^2.
    """
    first = low[..., :1]
    place = (low - first).clamp(0, num_cells - 1).long()
    weight = lower.new_zeros(*low.shape[:-1], num_cells)
    weight.scatter_add_(-1, place, lower).scatter_add_(-1, (place + 1).clamp(max=num_cells - 1), upper)
    return first + torch.arange(num_cells, device=low.device, dtype=low.dtype), weight


@dataclass
class _RegionRule:
    """Where the bins of regions are read, and with what weights.

    Attributes:
        first_row (Tensor): (R,) number of the first row of each region's map.
        limit (Tensor): (R, 2) size of that map.
        start, bin_size (Tensor): (R, 2) in cells.
        count, cells (Tensor): (R, 2) samples and cells of a bin along an axis.
        bins (int): S.
        read (Callable): `list_cells` or `merge_cells`.
    """

    first_row: Tensor
    limit: Tensor
    start: Tensor
    bin_size: Tensor
    count: Tensor
    cells: Tensor
    bins: int
    read: Callable

    def __call__(self, piece: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows and weights (r, S * S, K * K) of the bins of regions ``piece`` (r,)."""
        start, bin_size, count, limit = (
            t[piece, :, None, None] for t in (self.start, self.bin_size, self.count, self.limit)
        )
        num_y, num_x = self.cells[piece].amax(dim=0).tolist()
        # Samples lie at the middles of equal parts of a bin. They are placed in the order of torchvision's
        # kernel: another order moves samples across cell borders.
        sample = torch.arange(int(count.max()), device=count.device)
        bin_number = torch.arange(self.bins, device=count.device)[:, None]
        position = start + bin_number * bin_size + (sample + 0.5) * bin_size / count
        low, lower, upper = bilinear_cells(position, limit)
        share = (sample < count).to(lower.dtype) / count
        cell, weight = self.read(low, lower * share, upper * share, max(num_y, num_x))
        cell = torch.minimum(cell, limit - 1)  # what would lie beyond has weight 0
        # Both axes were laid out for the longer one.
        y, weight_y = cell[:, 0, :, :num_y], weight[:, 0, :, :num_y]
        x, weight_x = cell[:, 1, :, :num_x], weight[:, 1, :, :num_x]
        y = self.first_row[piece, None, None] + y * limit[:, 1]
        index = y[:, :, None, :, None] + x[:, None, :, None, :]
        weight = weight_y[:, :, None, :, None] * weight_x[:, None, :, None, :]
        return index.flatten(3).flatten(1, 2), weight.flatten(3).flatten(1, 2)


def plan_pieces(cells: Tensor, bins: int) -> list[Tensor]:
    """Group regions that read about as many cells a bin, (R, 2) by axis, in pieces of bounded size.

    The steps of a group are half octaves, so that few rows are read for nothing. Regions that read nothing
    are left out.
    """
    reading = (cells > 0).all(dim=1).nonzero()[:, 0]
    octave = (2 * cells[reading].double().log2()).ceil()
    group, order = (octave[:, 0] * 1000 + octave[:, 1]).sort(stable=True)
    reading = reading[order]
    pieces = []
    for regions in reading.split(torch.unique_consecutive(group, return_counts=True)[1].tolist()):
        rows_each = bins**2 * int(cells[regions].amax(dim=0).prod())
        pieces += regions.split(max(1, _CELLS_AT_ONCE // rows_each))
    return pieces
