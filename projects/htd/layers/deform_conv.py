"""Deformable convolution, plain (v1) and modulated (v2): a gather of samples and a matrix product.

Symbols: N images, (H, W) and (H', W') input and output size, T kernel taps, D offset groups, G weight groups,
P = N H' W' output places, Q columns (taps and channels) of one place. Offsets are (y, x).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.modules.utils import _pair
from torchvision.ops import deform_conv2d as torchvision_deform_conv2d

from htd.layers.sampling import full_precision, gather_rows, prefers_gather, scatter_rows_, within_reach

# Sampled values held at once: 8 MiB in float32.
_VALUES_AT_ONCE = 2**21


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    mask: Tensor | None = None,
) -> Tensor:
    """Convolve at displaced samples; as ``torchvision.ops.deform_conv2d``, with all gradients.

    Paper: Deformable Convolutional Networks, section 2.1, https://arxiv.org/abs/1703.06211; with ``mask``
    Deformable ConvNets v2, section 3.2, https://arxiv.org/abs/1811.11168. Computed in at least float32, also
    under autocast, for offsets are positions in pixels.

    Args:
        input (Tensor): (N, C, H, W); outside of it all is zero.
        offset (Tensor): (N, D * T * 2, H', W') cells that each tap is moved by.
        weight (Tensor): (C', C / G, kernel height, kernel width).
        bias (Tensor): (C',) or None.
        stride, padding, dilation: of the convolution, one number or (y, x).
        mask (Tensor): (N, D * T, H', W') weight of each sample, or None for ones.

    Returns:
        Tensor (N, C', H', W') in the dtype of ``input``.
    """
    geometry = {"stride": _pair(stride), "padding": _pair(padding), "dilation": _pair(dilation)}
    with torch.autocast(input.device.type, enabled=False):
        x = full_precision(input)
        others = [None if t is None else t.to(x.dtype) for t in (offset, weight, bias, mask)]
        convolve = convolve_by_gather if prefers_gather(x) else torchvision_deform_conv2d
        return convolve(x, *others[:3], mask=others[3], **geometry).to(input.dtype)


class DeformConv2d(nn.Conv2d):
    """Deformable convolution layer, with the parameters and the names of Detectron2's ``Conv2d``.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias: as in ``nn.Conv2d``,
            but without a bias unless one is asked for.
        norm (nn.Module): applied to the output, or None; its parameters are named ``norm.*``.
        activation: function of a tensor, applied after the norm, or None.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = False,
        *,
        norm: nn.Module | None = None,
        activation: Callable[[Tensor], Tensor] | None = None,
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        self.norm = norm
        self.activation = activation

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return (N, C', H', W') of x (N, C, H, W); offset and mask as in `deform_conv2d`."""
        geometry = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        x = deform_conv2d(x, offset, self.weight, self.bias, mask=mask, **geometry)
        x = x if self.norm is None else self.norm(x)
        return x if self.activation is None else self.activation(x)


def convolve_by_gather(x, offset, weight, bias=None, *, stride, padding, dilation, mask=None) -> Tensor:
    """`deform_conv2d` by a gather of samples and a matrix product; pairs of numbers are (y, x)."""
    batch, channels, height, width = x.shape
    (out_channels, group_channels, *kernel), out_size = weight.shape, offset.shape[-2:]
    taps, groups = kernel[0] * kernel[1], channels // group_channels
    offset_groups = offset.shape[1] // (2 * taps)
    axes = zip((height, width), kernel, stride, padding, dilation, strict=True)
    expected = tuple((n + 2 * pad - step * (k - 1) - 1) // move + 1 for n, k, move, pad, step in axes)
    if tuple(out_size) != expected:  # the offsets were predicted for another geometry
        raise ValueError(f"the convolution gives maps of {expected}, the offsets are {tuple(out_size)}")

    # A place's samples in the order (tap, offset group), so that their channels follow as in the input.
    rows = x.flatten(2).transpose(1, 2).reshape(-1, channels // offset_groups)
    offset = offset.unflatten(1, (offset_groups, taps, 2)).permute(0, 4, 5, 2, 1, 3).flatten(0, 2)
    if mask is not None:
        mask = mask.unflatten(1, (offset_groups, taps)).permute(0, 3, 4, 2, 1).flatten(0, 2)
    weight = weight.unflatten(0, (groups, -1)).flatten(3).transpose(2, 3).flatten(2)

    # The rule is made here and called piece by piece, in the forward and again in the backward pass.
    geometry = {"stride": stride, "padding": padding, "dilation": dilation}
    base = partial(tap_positions, out_size=out_size, kernel=kernel, **geometry)
    rule = partial(_place_rule, base, out_size[0] * out_size[1], (height, width))
    out = _SampleAndMultiply.apply(rows, offset, mask, weight, rule)
    out = out.view(batch, *out_size, out_channels)
    return (out if bias is None else out + bias).permute(0, 3, 1, 2).contiguous()


def tap_positions(place, *, out_size, kernel, stride, padding, dilation) -> Tensor:
    """Return where the kernel's taps lie for output places (p,), before any offset: (p, T, 2) int64 cells."""
    y = place // out_size[1] % out_size[0] * stride[0] - padding[0]
    x = place % out_size[1] * stride[1] - padding[1]
    tap_y = torch.arange(kernel[0], device=place.device).repeat_interleave(kernel[1]) * dilation[0]
    tap_x = torch.arange(kernel[1], device=place.device).repeat(kernel[0]) * dilation[1]
    return torch.stack([y[:, None] + tap_y, x[:, None] + tap_x], dim=-1)


def zero_padded_cells(position: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the four cells around each position, and their bilinear weights; 0 for cells outside.

    The upper neighbor is always floor + 1, so that the derivative at a whole number is the one to its right.

    Args:
        position (Tensor): (..., 2) cells; differentiable.
        size: (height, width).

    Returns:
        Numbers y * width + x (..., 4) of cells in the map, int64, and weights (..., 4).
    """
    limit = torch.tensor(size, device=position.device)
    position = within_reach(position, limit)
    low = position.detach().floor()
    upper = position - low
    cell = low.long()[..., None] + torch.arange(2, device=limit.device)
    valid = (cell >= 0) & (cell < limit[:, None])
    cell = cell.clamp(limit.new_zeros(2, 1), limit[:, None] - 1)
    weight = torch.stack([1 - upper, upper], dim=-1) * valid
    number = cell[..., 0, :, None] * size[1] + cell[..., 1, None, :]
    return number.flatten(-2), (weight[..., 0, :, None] * weight[..., 1, None, :]).flatten(-2)


def _place_rule(base, places_each, size, begin, offset, mask) -> tuple[Tensor, Tensor]:
    """Return rows and weights (p * T * D, 4) of the output places from ``begin`` on.

    ``offset`` (p, T, D, 2) and ``mask`` (p, T, D) are those of the places; D rows stand for a cell.
    """
    place = torch.arange(begin, begin + len(offset), device=offset.device)
    cell, weight = zero_padded_cells(base(place)[:, :, None] + offset, size)
    if mask is not None:
        weight = weight * mask[..., None]
    groups = offset.shape[2]
    first = place // places_each * (size[0] * size[1])
    row = (first[:, None, None, None] + cell) * groups + torch.arange(groups, device=place.device)[:, None]
    return row.flatten(0, 2), weight.flatten(0, 2)


class _SampleAndMultiply(Function):
    """Samples times weights, a block of places at a time; the backward pass takes the samples again.

    Inputs: rows (M * D, C / D) of M cells, offset (P, T, D, 2), mask (P, T, D) or None, weight
    (G, C' / G, Q / G), and the rule. Output: (P, C').
    """

    @staticmethod
    def forward(ctx, rows, offset, mask, weight, rule):
        ctx.save_for_backward(rows, offset, mask, weight)
        ctx.rule = rule
        groups, group_outputs, _ = weight.shape
        out = rows.new_empty(len(offset), groups * group_outputs)
        for part in _blocks(offset, weight):
            index, share = rule(part.start, offset[part], None if mask is None else mask[part])
            samples = _by_group(gather_rows(rows, index, share), offset[part], groups)
            out[part] = torch.bmm(samples, weight.transpose(1, 2)).transpose(0, 1).flatten(1)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        rows, offset, mask, weight = ctx.saved_tensors
        groups, group_outputs, _ = weight.shape
        grad_rows, grad_offset, grad_mask, grad_weight = (
            None if t is None else torch.zeros_like(t) for t in ctx.saved_tensors
        )
        for part in _blocks(offset, weight):
            moved = [t[part].detach().requires_grad_() for t in (offset, mask) if t is not None]
            with torch.enable_grad():
                index, share = ctx.rule(part.start, moved[0], None if mask is None else moved[1])
                samples = gather_rows(rows, index, share)
            grad_out = grad[part].unflatten(1, (groups, group_outputs)).transpose(0, 1)
            grad_weight.baddbmm_(grad_out.transpose(1, 2), _by_group(samples.detach(), offset[part], groups))
            grad_samples = torch.bmm(grad_out, weight).unflatten(2, (offset.shape[1], -1))
            grad_samples = grad_samples.permute(1, 2, 0, 3).reshape(samples.shape)
            scatter_rows_(grad_rows, grad_samples, index, share.detach())
            grad_offset[part], *others = torch.autograd.grad(samples, moved, grad_samples)
            if others:
                grad_mask[part] = others[0]
        return grad_rows, grad_offset, grad_mask, grad_weight, None


def _blocks(offset: Tensor, weight: Tensor) -> list[slice]:
    """Cut the places so that a block's samples, and so the memory beside input and output, are bounded."""
    step = max(1, _VALUES_AT_ONCE // max(1, weight.shape[0] * weight.shape[2]))
    return [slice(begin, min(begin + step, len(offset))) for begin in range(0, len(offset), step)]


def _by_group(samples: Tensor, offset: Tensor, groups: int) -> Tensor:
    """Return the samples (p * T * D, C / D) of places with ``offset`` (p, T, D, 2) as (G, p, T * C / G)."""
    return samples.view(*offset.shape[:2], groups, -1).permute(2, 0, 1, 3).flatten(2)
