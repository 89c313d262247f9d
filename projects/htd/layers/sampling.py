"""The one sampler: feature maps as rows, weighted sums of rows, and where torchvision's kernels take over.

RoIAlign, offset RoI pooling and deformable convolution all read features at fractional places. Each is a
rule that gives row numbers and weights; the reading itself is one weighted gather with its transpose. The
exception is `sample_coordinates`, whose places have one value each.

Symbols: N images, L levels, C channels, M feature rows, R results, K rows read for one result.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# Row sums that are held at once while gradients are written: 4 MiB in float32, which a cache can keep.
_SUMS_AT_ONCE = 2**20


def prefers_gather(tensor: Tensor) -> bool:
    """Tell whether features like ``tensor`` are read by the gather here, not by torchvision's kernels.

    On a CPU the gather is several times as fast. On other devices nothing was measured, and torchvision's
    kernels for them are taken. A traced graph gets
    torchvision's operators too: the gather groups regions by size, which a trace would fix for good.
    """
    return tensor.is_cpu and not torch.jit.is_tracing() and not torch.compiler.is_compiling()


def full_precision(tensor: Tensor) -> Tensor:
    """Return ``tensor`` in float32, or in float64 if it has that already."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def within_reach(position: Tensor, size: int | Tensor) -> Tensor:
    """Send positions (...) more than a cell outside [0, size - 1] to -1.

    On a map that is zero outside they read 0 there, too, without a gradient, and huge numbers cannot
    overflow a cell's number.
    """
    return torch.where((position < -1) | (position > size), -1, position)


class FeatureTable:
    """The maps of a pyramid and, made on first use, all their cells as the rows of one matrix.

    One table serves every pooling of the same images: the rows are built once, and the gradients of all
    poolings add up in them before they go back into the maps.

    Args:
        maps: L maps (N, C, H_l, W_l), finest first.
        strides: pixels of the input image to a cell of each map.
    """

    def __init__(self, maps: Sequence[Tensor], strides: Sequence[int]):
        if not maps or len(maps) != len(strides):
            raise ValueError(
                f"{len(maps)} maps have {len(strides)} strides; give at least one map, and a stride each"
            )
        self.maps = tuple(maps)
        self.strides = tuple(strides)
        self._rows: Tensor | None = None

    @property
    def channels(self) -> int:
        """C."""
        return self.maps[0].shape[1]

    @property
    def rows(self) -> Tensor:
        """All cells (M, C) in at least float32: image by image, there level by level, there row by row."""
        # Rows made without gradients, by an evaluation of the same table, must not serve training.
        grad = torch.is_grad_enabled() and any(m.requires_grad for m in self.maps)
        if self._rows is None or (grad and not self._rows.requires_grad):
            # Images first: then the concatenation is the only copy.
            cells = [full_precision(m).flatten(2).transpose(1, 2) for m in self.maps]
            self._rows = torch.cat(cells, dim=1).flatten(0, 1)
        return self._rows

    def locate(self, image_index: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
        """Find the map that each region is read from.

        Args:
            image_index (Tensor): (R,) int64 in [0, N).
            levels (Tensor): (R,) int64 in [0, L).

        Returns:
            The number of the map's first row (R,), and its size (R, 2) as (height, width). Both are int32
            where that holds every row number: half the memory, and half the time to sort.
        """
        sizes = torch.tensor([m.shape[-2:] for m in self.maps], device=levels.device)
        cells = sizes.prod(dim=1)
        first = image_index * cells.sum() + (cells.cumsum(0) - cells)[levels]
        num_rows = sum(m.shape[0] * m.shape[2] * m.shape[3] for m in self.maps)
        number = torch.int32 if num_rows < 2**31 else torch.int64
        return first.to(number), sizes[levels].to(number)


def gather_rows(rows: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Return ``sum_k weight[r, k] * rows[index[r, k]]`` (R, C); differentiable in ``weight`` only."""
    if index.numel() == 0:
        return rows.new_zeros(len(index), rows.shape[1]) + weight.sum()
    return F.embedding_bag(index, rows, per_sample_weights=weight, mode="sum")


def scatter_rows_(target: Tensor, values: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Add ``weight[r, k] * values[r]`` to ``target[index[r, k]]``: the transpose of `gather_rows`.

    Sorted by target row the sums are gathers themselves, and every row is written once.

    Args:
        target (Tensor): (M, C), changed in place.
        values (Tensor): (R, C).
        index (Tensor): (R, K) in [0, M).
        weight (Tensor): (R, K).
    """
    row, order = index.reshape(-1).sort()
    source, weight = order // max(index.shape[1], 1), weight.reshape(-1)[order]
    row, count = torch.unique_consecutive(row, return_counts=True)
    first = count.cumsum(0) - count
    step = max(1, _SUMS_AT_ONCE // max(target.shape[1], 1))
    edges = [*first[::step].tolist(), len(source)]
    for block, (begin, end) in enumerate(pairwise(edges)):
        part = slice(block * step, (block + 1) * step)
        sums = F.embedding_bag(
            source[begin:end], values, first[part] - begin, per_sample_weights=weight[begin:end], mode="sum"
        )
        target.index_add_(0, row[part], sums)
    return target


class _WeightedGather(Function):
    """Sums of ``weight * rows[index]`` whose weights are too many to be held, or kept for the backward pass.

    Args:
        rows (Tensor): (M, C), float32 or float64.
        pieces (Sequence[Tensor]): the results that are computed together, each (r,) int64 in [0, R);
            results that no piece names are zero.
        rule (Callable): ``rule(piece, *inputs) -> index, weight``, both (r, k, K). Called again in the
            backward pass.
        shape (tuple[int, int]): R and k, the sums to a result.
        inputs (Tensor): what the weights follow from and gradients are wanted for.

    Returns:
        Tensor (R, k, C).
    """

    @staticmethod
    def forward(ctx, rows, pieces, rule, shape, *inputs):
        ctx.pieces, ctx.rule, ctx.num_rows = pieces, rule, len(rows)
        # Only gradients of the weights need the rows themselves.
        ctx.save_for_backward(*inputs, *([rows] if any(ctx.needs_input_grad[4:]) else []))
        out = rows.new_zeros(*shape, rows.shape[1])
        for piece in pieces:
            index, weight = rule(piece, *inputs)
            sums = gather_rows(rows, index.flatten(0, 1), weight.flatten(0, 1))
            out.index_copy_(0, piece, sums.view(len(piece), *out.shape[1:]))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        wanted = ctx.needs_input_grad[4:]
        inputs = [x.detach().requires_grad_(w) for x, w in zip(ctx.saved_tensors, wanted, strict=False)]
        for x, w in zip(inputs, wanted, strict=True):
            x.grad = torch.zeros_like(x) if w else None  # also without a piece that they meet a gradient in
        grad_rows = grad.new_zeros(ctx.num_rows, grad.shape[-1]) if ctx.needs_input_grad[0] else None
        for piece in ctx.pieces:
            with torch.set_grad_enabled(any(wanted)):
                index, weight = (t.flatten(0, 1) for t in ctx.rule(piece, *inputs))
                values = grad.index_select(0, piece).flatten(0, 1)
                if any(wanted):
                    gather_rows(ctx.saved_tensors[-1].detach(), index, weight).backward(values)
            if grad_rows is not None:
                scatter_rows_(grad_rows, values, index, weight.detach())
        return grad_rows, None, None, None, *(x.grad for x in inputs)


weighted_gather = _WeightedGather.apply


def sample_coordinates(boxes: Tensor, offsets: Tensor) -> Tensor:
    """Read every coordinate bilinearly at a displaced cell of its own map.

    Paper: TOOD: Task-aligned One-stage Object Detection, section 3.1, https://arxiv.org/abs/2108.07755. Equal
    to a deformable convolution with four groups, whose kernel is one tap of weight 1. Beyond the map all is
    zero, so samples near the border are drawn towards the origin.

    Args:
        boxes (Tensor): (N, 4, H, W), relative to the origin of the image; any unit.
        offsets (Tensor): (N, 8, H, W) in cells: (y, x) for each coordinate in turn. Any number is allowed.

    Returns:
        Tensor (N, 4, H, W) in at least float32, with gradients for both; NaN at offsets that are NaN. Samples
        may be inside out, see `repair_boxes`.
    """
    with torch.autocast(boxes.device.type, enabled=False):
        boxes = full_precision(boxes)
        height, width = boxes.shape[-2:]
        y = torch.arange(height, device=boxes.device, dtype=boxes.dtype)
        x = torch.arange(width, device=boxes.device, dtype=boxes.dtype)
        offsets = offsets.to(boxes.dtype)
        y = within_reach(offsets[:, 0::2] + y[:, None], height).flatten(2)
        x = within_reach(offsets[:, 1::2] + x, width).flatten(2)
        # One cell of zeros before and two after the map make all neighbors ordinary ones.
        padded, row = F.pad(boxes, (1, 2, 1, 2)), width + 3
        left, top = x.detach().floor(), y.detach().floor()
        cell = (top.long() + 1) * row + left.long() + 1
        cell = cell.clamp(0, (height + 2) * row - 2)  # a position that is NaN has no cell

        padded = padded.flatten(2)
        x, y = x - left, y - top
        upper = torch.lerp(padded.gather(2, cell), padded.gather(2, cell + 1), x)
        lower = torch.lerp(padded.gather(2, cell + row), padded.gather(2, cell + row + 1), x)
        return torch.lerp(upper, lower, y).view(boxes.shape)


def repair_boxes(sampled: Tensor, original: Tensor) -> Tensor:
    """Return the sampled boxes, and the original ones where those are inside out (x1 > x2 or y1 > y2).

    Args:
        sampled, original (Tensor): (N, 4, H, W).

    Returns:
        Tensor (N, 4, H, W); gradients go to the box that was taken.
    """
    inside_out = (sampled[:, :2] > sampled[:, 2:]).any(dim=1, keepdim=True)
    return torch.where(inside_out, original, sampled)
