"""Single operators: the reference and ours on the same input, one after the other."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.ops import deform_conv2d

from benchmark_htd import htd_second_stage
from benchmark_inputs import IMAGE, STRIDES, random_regions
from benchmark_measure import Comparison, compare
from benchmark_tood import decomposition, sampled_boxes
from benchmark_tsd import offset_pooling
from htd.layers import FeatureTable
from htd.layers.deform_conv import convolve_by_gather
from htd.layers.roi_align import pool_by_gather, pool_by_torchvision


def roi_align(repeat: int, device: torch.device) -> list[Comparison]:
    """RoIAlign 7x7 on P2 to P5 of one image; the gather makes its rows anew each time."""
    maps = [
        torch.randn(1, 256, math.ceil(IMAGE[0] / s), math.ceil(IMAGE[1] / s), device=device) for s in STRIDES
    ]
    for features in maps:
        features.requires_grad_()
    boxes, levels = (t.to(device) for t in random_regions(1000))
    all_boxes, all_levels = boxes[:150].repeat(4, 1), torch.arange(4, device=device).repeat_interleave(150)
    rows = []
    for name, regions, samples in (
        ("1000 RoIs, own level, adaptive", (boxes, levels), 0),
        ("150 RoIs, all four levels, adaptive", (all_boxes, all_levels), 0),
        ("1000 RoIs, own level, 2x2 samples", (boxes, levels), 2),
    ):
        for training in (False, True):
            functions = [
                _pooling(pool, lambda: FeatureTable(maps, STRIDES), *regions, samples, training)
                for pool in (pool_by_torchvision, pool_by_gather)
            ]
            rows.append(compare(f"{name}, {_phase(training)}", *functions, repeat, device))
    return rows


def deform_conv(repeat: int, device: torch.device) -> list[Comparison]:
    """Deformable 3x3 convolutions as the published backbones have them at 800x1333."""
    rows = []
    for size, channels, groups, modulated in (
        ((100, 168), 128, 1, False),
        ((50, 84), 256, 1, False),
        ((50, 84), 256, 1, True),
        ((50, 84), 1024, 64, False),
    ):
        inputs = [
            torch.randn(1, channels, *size, device=device),
            torch.randn(1, 18, *size, device=device),
            torch.randn(channels, channels // groups, 3, 3, device=device) / math.sqrt(9 * channels),
        ]
        if modulated:
            inputs.append(torch.rand(1, 9, *size, device=device))
        kind = f"{channels} -> {channels}" + (f", {groups} groups" if groups > 1 else "")
        name = f"v{2 if modulated else 1} 3x3, {kind}, {size[0]}x{size[1]}"
        for training in (False, True):
            functions = [_convolution(f, inputs, training) for f in (deform_conv2d, convolve_by_gather)]
            rows.append(compare(f"{name}, {_phase(training)}", *functions, repeat, device))
    return rows


def _phase(training: bool) -> str:
    return "forward + backward" if training else "forward"


def _pooling(pool: Callable, table: Callable, boxes: Tensor, levels: Tensor, samples: int, training: bool):
    image_index = torch.zeros_like(levels)

    def run():
        with torch.set_grad_enabled(training):
            features = table()
            out = pool(features, boxes, image_index, levels, 7, samples)
            if training:
                torch.autograd.grad(out, features.maps, out.detach())

    return run


def _convolution(convolve: Callable, inputs: list[Tensor], training: bool):
    inputs = [t.clone().requires_grad_() for t in inputs]
    geometry = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)}

    def run():
        with torch.set_grad_enabled(training):
            out = convolve(*inputs[:3], mask=inputs[3] if len(inputs) > 3 else None, **geometry)
            if training:
                torch.autograd.grad(out, inputs, out.detach())

    return run


# name on the command line -> function(repeat, device) -> comparisons
COMPONENTS: dict[str, Callable[[int, torch.device], list[Comparison]]] = {
    "roi_align": roi_align,
    "deform_conv": deform_conv,
    "htd_second_stage": htd_second_stage,
    "offset_roi_pool": offset_pooling,
    "sampled_boxes": sampled_boxes,
    "task_decomposition": decomposition,
}
