"""The one sampler: feature maps as rows, weighted sums of rows, and where torchvision's kernels take over.

RoIAlign, border-aware features and deformable convolution all read features at fractional places. Each is
a rule that gives row numbers and weights; the reading itself is one weighted gather with its transpose. The
exception is box_sampling.py, whose places have one value each.

Symbols: N images, L levels, C channels, M feature rows, R results, K rows read for one result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

    On a CPU the gather is several times as fast (``tools/benchmark.py --component roi_align``). On other
    devices nothing was measured, and torchvision's kernels for them are taken. A traced graph gets
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

    Attributes:
        maps (tuple[Tensor]): L maps (N, C, H_l, W_l), finest first.
        strides (tuple[int]): pixels of the input image to a cell, one a map.
    """

    def __init__(self, maps: tuple[Tensor, ...], strides: tuple[int, ...]):
        self.maps = maps
        self.strides = strides
        self._rows: Tensor | None = None

    @classmethod
    def from_maps(cls, maps: Sequence[Tensor], strides: Sequence[int]) -> FeatureTable:
        """Return the table of ``maps``, each (N, C, H_l, W_l), with their ``strides``.

        Raises:
            ValueError: there is no map, or not one stride a map.
        """
        if not maps or len(maps) != len(strides):
            raise ValueError(f"a table needs one stride a map, got {len(maps)} maps, {len(strides)} strides")
        return cls(tuple(maps), tuple(strides))

    @property
    def num_levels(self) -> int:
        """L."""
        return len(self.maps)

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


def weighted_gather(rows: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Return weighted sums of rows, with the exact gradients of ``rows`` and ``weight``.

    Args:
        rows (Tensor): (M, C).
        index (Tensor): (R, K) int32 or int64 in [0, M).
        weight (Tensor): (R, K). What positions a rule computes reach the result through the weights, and
            so do their gradients.

    Returns:
        Tensor (R, C) in the dtype of ``rows``; computed in at least float32, also under autocast.
    """
    with torch.autocast(rows.device.type, enabled=False):
        table = full_precision(rows)
        weight = weight.to(table.dtype)
        sums = gather_rows(table.detach(), index, weight)
        # A node of its own: PyTorch's gradient of embedding_bag for the rows takes longer than ours.
        return _AttachRows.apply(sums, table, index, weight.detach()).to(rows.dtype)


def gather_in_pieces(
    rows: Tensor, pieces: Sequence[Tensor], rule: Callable, shape: tuple[int, int], *inputs: Tensor
) -> Tensor:
    """`weighted_gather` for weights that are too many to be held, or kept for the backward pass.

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
    return _GatherInPieces.apply(rows, pieces, rule, shape, *inputs)


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


class _AttachRows(Function):
    """Identity on sums of rows whose backward pass also sends their gradient to the rows."""

    @staticmethod
    def forward(ctx, sums, rows, index, weight):
        ctx.save_for_backward(index, weight)
        ctx.num_rows = len(rows)
        return sums.view_as(sums)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        grad_rows = None
        if ctx.needs_input_grad[1]:
            index, weight = ctx.saved_tensors
            grad_rows = grad.new_zeros(ctx.num_rows, grad.shape[1])
            scatter_rows_(grad_rows, grad.contiguous(), index, weight)
        return grad, grad_rows, None, None


class _GatherInPieces(Function):
    """See `gather_in_pieces`."""

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
