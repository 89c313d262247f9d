"""Time and memory of pasting the masks of 100 detections into a large image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing import get_context
from statistics import median

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from benchmark_inputs import random_regions
from benchmark_measure import PeakMemory, seconds
from benchmark_models import Settings
from benchmark_tables import Table, numbers
from htd.modeling.cascade import ConvMaskHead, IndependentHeads, MaskBranch, SampledPositives

DETECTIONS = 100
BoxRule = Callable[[tuple[int, int]], Tensor]


def small_regions(size: tuple[int, int]) -> Tensor:
    """Return boxes of 12 to 100 pixels."""
    return random_regions(DETECTIONS, largest=100.0, image=size)[0]


def regions_of_all_sizes(size: tuple[int, int]) -> Tensor:
    """Return boxes of 12 to 1800 pixels."""
    return random_regions(DETECTIONS, image=size)[0]


def whole_images(size: tuple[int, int]) -> Tensor:
    """Return boxes that cover the image, the worst case."""
    height, width = size
    return torch.tensor([[0.0, 0.0, width, height]]).repeat(DETECTIONS, 1)


def some_whole_images(size: tuple[int, int]) -> Tensor:
    """Return small boxes, five of them made to cover the image."""
    boxes = small_regions(size)
    boxes[::20] = whole_images(size)[::20]
    return boxes


def paste(rule: BoxRule, size: tuple[int, int], threads: int = 1) -> tuple[float, float, float]:
    """Paste the masks of 100 detections in this process, on its CPU.

    Args:
        rule: returns the boxes (100, 4) for the size of an image.
        size: (height, width) of the image.
        threads: of torch.

    Returns:
        Seconds, the result's bytes, and how far the process's memory has risen at most, result included.
    """
    torch.set_num_threads(threads)
    branch = mask_branch()
    branch.paste(_detections(torch.tensor([[0.0, 0.0, 20.0, 20.0]]), (30, 30)))  # loads what is loaded late
    detections = _detections(rule(size), size)
    cpu = torch.device("cpu")
    peak = PeakMemory(cpu)
    time = seconds(partial(branch.paste, detections), cpu)
    result = detections.pred_masks
    return time, result.numel() * result.element_size(), peak.bytes()


def paste_in_fresh_process(*arguments) -> tuple[float, float, float]:
    """Return what :func:`paste` returns in a process of its own."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(paste, arguments)


def paste_masks(settings: Settings, overrides: Sequence[str]) -> Table:
    """Measure pasting on the CPU, whatever the device; there is nothing to override."""
    rows = []
    for rule in (small_regions, regions_of_all_sizes, some_whole_images, whole_images):
        found = [
            paste_in_fresh_process(rule, settings.size, settings.threads) for _ in range(settings.repeat)
        ]
        time, result, peak = map(median, zip(*found, strict=True))
        rows.append([rule.__name__, *numbers([1e3 * time, result / 1e6, peak / 1e6, (peak - result) / 1e6])])
    return Table(["100 masks", "ms", "result MB", "peak MB", "beyond the result MB"], rows)


def mask_branch() -> MaskBranch:
    """Return the smallest mask branch: pasting reads its threshold alone."""
    return MaskBranch(
        features=nn.Identity(),
        heads=[ConvMaskHead(num_classes=1, channels=1, num_convs=1)],
        flow=IndependentHeads(),
        roi_rule=SampledPositives(),
        loss_weights=[1.0],
    )


def _detections(boxes: Tensor, size: tuple[int, int]) -> Instances:
    masks = torch.rand(len(boxes), 1, 28, 28, generator=torch.Generator().manual_seed(0))
    return Instances(size, pred_boxes=Boxes(boxes), pred_masks=masks)
