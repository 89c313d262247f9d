"""T-Head's operators on the finest level of an image of 800x1333: sampling of boxes, mixing of layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import deform_conv2d

from benchmark_measure import Comparison, compare
from htd.layers import sample_coordinates
from htd.modeling.tood.task_decomposition import mixed

FINEST, LAYERS, CHANNELS = (100, 168), 6, 256


def sampled_boxes(repeat: int, device: torch.device) -> list[Comparison]:
    """Boxes read side by side at offsets; the reference is torchvision's deformable convolution."""
    boxes = (100 * torch.rand(1, 4, *FINEST, device=device)).requires_grad_()
    offsets = torch.randn(1, 8, *FINEST, device=device).requires_grad_()
    ones = torch.ones(4, 1, 1, 1, device=device)
    functions = [partial(deform_conv2d, weight=ones), sample_coordinates]
    return _both_phases("100x168 cells", functions, [boxes, offsets], repeat, device)


def decomposition(repeat: int, device: torch.device) -> list[Comparison]:
    """What one task takes from six layers; the reference scales the joined layers, then convolves."""
    layers = [torch.randn(1, CHANNELS, *FINEST, device=device).requires_grad_() for _ in range(LAYERS)]
    weights = torch.rand(1, LAYERS, device=device).requires_grad_()
    kernel = torch.randn(CHANNELS, LAYERS * CHANNELS, 1, 1, device=device).requires_grad_()
    return _both_phases("100x168 cells", [_scaled, _folded], [weights, kernel, *layers], repeat, device)


def _scaled(weights: Tensor, kernel: Tensor, *layers: Tensor) -> Tensor:
    each = weights.repeat_interleave(CHANNELS, dim=1)[..., None, None]
    return F.conv2d(torch.cat(layers, dim=1) * each, kernel)


def _folded(weights: Tensor, kernel: Tensor, *layers: Tensor) -> Tensor:
    return mixed(layers, kernel.flatten(1) * weights.repeat_interleave(CHANNELS, dim=1)[:, None])


def _both_phases(
    case: str, functions: Sequence[Callable], inputs: list[Tensor], repeat: int, device: torch.device
) -> list[Comparison]:
    rows = []
    for phase, training in (("forward", False), ("forward + backward", True)):
        runs = [partial(_run, function, inputs, training) for function in functions]
        rows.append(compare(f"{case}, {phase}", *runs, repeat, device))
    return rows


def _run(function: Callable, inputs: list[Tensor], training: bool) -> None:
    with torch.set_grad_enabled(training):
        out = function(*inputs)
        if training:
            torch.autograd.grad(out, inputs, out.detach())
