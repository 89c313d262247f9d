"""Single operators: a reference and ours on the same input, in turns."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing import get_context
from statistics import median

import torch
import torch.nn.functional as F
from detectron2.config import instantiate
from detectron2.layers import paste_masks_in_image
from torch import Tensor, nn
from torchvision.ops import deform_conv2d as torchvision_deform_conv2d

from htd.benchmark import plain_second_stage as plain
from htd.benchmark.inputs import STRIDES, random_boxes, random_maps
from htd.benchmark.measure import PeakMemory, Table, megabytes, milliseconds, seconds, side_by_side
from htd.benchmark.models import Settings
from htd.layers import FeatureTable, RoundedRegions, sample_coordinates
from htd.layers import offset_roi_pool as pool_with_offsets
from htd.layers import roi_align as pool_by_gather
from htd.layers.deform_conv import convolve_by_gather
from htd.layers.roi_align import pool_by_torchvision
from htd.modeling.cascade import LevelRule, RoIContext
from htd.modeling.tood.head import conv1x1_of_layers

HEAD = ["case", "reference ms", "ours ms", "ratio", "reference MB", "ours MB"]
FORWARD, BACKWARD = "forward", "forward + backward"
Function = Callable[..., Tensor]


def compare(case: str, reference: Callable, ours: Callable, settings: Settings) -> list[str]:
    """Return the row of a table for two functions without arguments."""
    memory = []
    for function in (reference, ours):  # warms them up, too
        peak = PeakMemory(settings.device)
        function()
        memory.append(peak.bytes())
    times = side_by_side([reference, ours], settings.repeat, settings.device)
    ratio = f"{times[0] / times[1]:.1f}"
    return [case, *map(milliseconds, times), ratio, *map(megabytes, memory)]


def compare_phases(
    case: str, reference: Function, ours: Function, inputs: Sequence[Tensor], settings: Settings
) -> list[list[str]]:
    """Return two rows: a call with ``inputs``, and a call followed by the gradient of each input."""
    rows = []
    for phase in (FORWARD, BACKWARD):
        runs = [partial(_run, function, inputs, phase == BACKWARD) for function in (reference, ours)]
        rows.append(compare(f"{case}, {phase}", *runs, settings))
    return rows


def _run(function: Function, inputs: Sequence[Tensor], backward: bool) -> None:
    with torch.set_grad_enabled(backward):
        out = function(*inputs)
        if backward:  # a reference may ignore an input
            torch.autograd.grad(out, inputs, out.detach(), allow_unused=True)


def roi_align(settings: Settings) -> Table:
    """RoIAlign 7x7 on P2 to P5 of one image, including the preparation of the maps for our gather.

    The gather is for CPUs: on another device both sides are torchvision's.
    """
    maps = [m.to(settings.device).requires_grad_() for m in random_maps(settings.size)]
    boxes, levels = (t.to(settings.device) for t in random_boxes(settings.rois, settings.size))
    few = max(1, settings.rois * 15 // 100)
    all_levels = torch.arange(4, device=settings.device).repeat_interleave(few)
    rows = []
    for case, regions, samples in (
        (f"{settings.rois} RoIs, own level, adaptive", (boxes, levels), 0),
        (f"{few} RoIs, all four levels, adaptive", (boxes[:few].repeat(4, 1), all_levels), 0),
        (f"{settings.rois} RoIs, own level, 2x2 samples", (boxes, levels), 2),
    ):
        reference, ours = (
            partial(_pool, pool, regions, samples) for pool in (pool_by_torchvision, pool_by_gather)
        )
        rows += compare_phases(case, reference, ours, maps, settings)
    return Table(HEAD, rows)


def _pool(pool: Function, regions: tuple[Tensor, Tensor], samples: int, *maps: Tensor) -> Tensor:
    boxes, levels = regions
    table = FeatureTable(maps, STRIDES)
    image = torch.zeros_like(levels)
    return pool(table, boxes, image, levels, output_size=7, sampling_ratio=samples)


def deform_conv(settings: Settings) -> Table:
    """Deformable 3x3 convolutions of the published backbones."""
    rows = []
    for stride, channels, groups, modulated in (
        (8, 128, 1, False),
        (16, 256, 1, False),
        (16, 256, 1, True),
        (16, 1024, 64, False),
    ):
        # A multiple of 32, as batches are padded.
        height, width = (math.ceil(side / 32) * 32 // stride for side in settings.size)
        inputs = [
            torch.randn(1, channels, height, width),
            torch.randn(1, 18, height, width),
            torch.randn(channels, channels // groups, 3, 3) / math.sqrt(9 * channels),
        ]
        if modulated:
            inputs.append(torch.rand(1, 9, height, width))
        inputs = [x.to(settings.device).requires_grad_() for x in inputs]
        kind = f"{channels} channels" + (f", {groups} groups" if groups > 1 else "")
        case = f"v{1 + modulated}, {kind}, {height}x{width}"
        functions = (partial(_convolve, f) for f in (torchvision_deform_conv2d, convolve_by_gather))
        rows += compare_phases(case, *functions, inputs, settings)
    return Table(HEAD, rows)


def _convolve(
    convolve: Function, x: Tensor, offset: Tensor, weight: Tensor, mask: Tensor | None = None
) -> Tensor:
    return convolve(x, offset, weight, mask=mask, stride=(1, 1), padding=(1, 1), dilation=(1, 1))


def htd_second_stage(settings: Settings) -> Table:
    """HTD's second stage beside :mod:`htd.benchmark.plain_second_stage`.

    At inference only some of the RoIs of one image have a class above the score threshold, and ours regresses
    those only. In training with two images both regress the positives, a quarter of the samples.
    """
    roi_heads = instantiate(settings.model_config("htd/htd_r50_fpn_1x.py", settings.overrides).roi_heads)
    stages = roi_heads.to(settings.device).eval().stages
    head, previous = stages[1].head, stages[0].head.cls_score
    rows = []
    for share, largest in ((0.0, 1800.0), (0.15, 1800.0), (0.5, 1800.0), (1.0, 1800.0), (0.15, 800.0)):
        batch = _SecondStage(head, previous, settings, [settings.rois], largest)
        order = torch.randperm(settings.rois, generator=torch.Generator().manual_seed(1))
        kept = order[: int(settings.rois * share)].sort().values.to(settings.device)
        case = f"inference, {settings.rois} RoIs to {largest:g} px, {share:.0%} can be kept"
        all_rois = torch.arange(settings.rois, device=settings.device)
        reference, ours = partial(batch.plain, all_rois), partial(batch.ours, kept)
        rows.append(compare(case, torch.no_grad()(reference), torch.no_grad()(ours), settings))
    sampled = max(4, settings.rois * 512 // 1000)  # per image
    batch = _SecondStage(head, previous, settings, [sampled, sampled])
    positive = torch.cat([torch.arange(sampled // 4), sampled + torch.arange(sampled // 4)]).to(
        settings.device
    )
    sources = [m.requires_grad_() for m in batch.maps] + list(head.parameters())
    runs = [partial(_backward, partial(f, positive), sources) for f in (batch.plain, batch.ours)]
    rows.append(compare(f"training, 2 x {sampled} RoIs, {BACKWARD}", *runs, settings))
    return Table(HEAD, rows)


def _backward(function: Callable[[], tuple[Tensor, Tensor]], sources: list[Tensor]) -> None:
    logits, deltas = function()
    torch.autograd.grad(logits.sum() + deltas.sum(), sources, allow_unused=True)


class _SecondStage:
    """The two formulations of HTD's second stage on the same RoIs."""

    def __init__(
        self,
        head: nn.Module,
        previous: nn.Linear,
        settings: Settings,
        counts: list[int],
        largest: float = 1800.0,
    ):
        self.head, self.previous = head, previous
        channels = head.regression.tower[0].weight.shape[1]
        self.maps = [m.to(settings.device) for m in random_maps(settings.size, channels, len(counts))]
        boxes = [random_boxes(n, settings.size, seed=i, largest=largest)[0] for i, n in enumerate(counts)]
        self.boxes = [b.to(settings.device) for b in boxes]
        generator = torch.Generator().manual_seed(0)
        self.image_vector = 0.1 * torch.randn(len(counts), channels, generator=generator).to(settings.device)
        self.size = settings.size

    def plain(self, regressed: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and, of the RoIs ``regressed``, deltas by the plain formulation."""
        rois = torch.cat([F.pad(b, (1, 0), value=float(i)) for i, b in enumerate(self.boxes)])
        classification, regression = self.head.classification, self.head.regression
        logits = plain.classify(classification, self.maps, rois, self.image_vector, self.previous)
        return logits, plain.regress(regression, self.maps, rois[regressed], self.image_vector)

    def ours(self, regressed: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same by the head."""
        table = FeatureTable(self.maps, STRIDES)
        sizes = [self.size] * len(self.boxes)
        context = RoIContext(table, sizes, LevelRule(), self.image_vector)
        rois = context.rois(self.boxes)
        output = self.head.classify(context, rois, self.previous)
        return output.logits, self.head.regress(context, rois, output, regressed)


def offset_roi_pool(settings: Settings) -> Table:
    """TSD's pooling beside torchvision's RoIAlign with 2x2 samples, of the RoIs of one image.

    Ours prepares the maps in each call or, as in a detector, finds them prepared by the plain pooling.
    """
    maps = [m.to(settings.device).requires_grad_() for m in random_maps(settings.size)]
    boxes, levels = (t.to(settings.device) for t in random_boxes(settings.rois, settings.size))
    prepared = FeatureTable([m.detach() for m in maps], STRIDES)
    prepared.rows  # noqa: B018
    generator = torch.Generator().manual_seed(0)
    rows = []
    for kind, shape in (("an offset per bin", (settings.rois, 2, 7, 7)), ("one offset", (settings.rois, 2))):
        offsets = (0.1 * torch.randn(shape, generator=generator)).to(settings.device).requires_grad_()
        case = f"{settings.rois} RoIs, {kind}"
        functions = [partial(_pool_table, prepared, boxes, levels, shifted) for shifted in (False, True)]
        runs = [partial(_run, function, [offsets], False) for function in functions]
        rows.append(compare(f"{case}, {FORWARD}, prepared maps", *runs, settings))
        functions = [partial(_pool_maps, boxes, levels, shifted) for shifted in (False, True)]
        rows += compare_phases(case, *functions, [offsets, *maps], settings)
    return Table(HEAD, rows)


def _pool_maps(boxes: Tensor, levels: Tensor, shifted: bool, offsets: Tensor, *maps: Tensor) -> Tensor:
    return _pool_table(FeatureTable(maps, STRIDES), boxes, levels, shifted, offsets)


def _pool_table(table: FeatureTable, boxes: Tensor, levels: Tensor, shifted: bool, offsets: Tensor) -> Tensor:
    image_index = torch.zeros_like(levels)
    if not shifted:
        return pool_by_torchvision(table, boxes, image_index, levels, 7, 2)
    rule = {"output_size": 7, "regions": RoundedRegions()}
    return pool_with_offsets(table, boxes, image_index, levels, offsets, **rule)


def sampled_boxes(settings: Settings) -> Table:
    """Box maps read at offsets (TOOD's alignment); the reference is a deformable convolution of one tap."""
    height, width = _finest_level(settings)
    boxes = (100 * torch.rand(1, 4, height, width, device=settings.device)).requires_grad_()
    offsets = torch.randn(1, 8, height, width, device=settings.device).requires_grad_()
    reference = partial(torchvision_deform_conv2d, weight=torch.ones(4, 1, 1, 1, device=settings.device))
    case = f"{height}x{width} cells"
    return Table(HEAD, compare_phases(case, reference, sample_coordinates, [boxes, offsets], settings))


def task_decomposition(settings: Settings, layers: int = 6, channels: int = 256) -> Table:
    """TOOD's task decomposition of one task; the reference scales the joined layers and convolves them."""
    height, width = _finest_level(settings)
    maps = [torch.randn(1, channels, height, width) for _ in range(layers)]
    kernel, attention = torch.randn(channels, layers * channels, 1, 1), torch.rand(1, layers)
    inputs = [t.to(settings.device).requires_grad_() for t in (attention, kernel, *maps)]
    return Table(
        HEAD, compare_phases(f"{height}x{width} cells", scale_layers, fold_weights, inputs, settings)
    )


def scale_layers(attention: Tensor, kernel: Tensor, *layers: Tensor) -> Tensor:
    """Scale each of S layers (1, C, H, W) by its attention (1, S), then convolve all of them."""
    scale = attention.repeat_interleave(layers[0].shape[1], dim=1)[..., None, None]
    return F.conv2d(torch.cat(layers, dim=1) * scale, kernel)


def fold_weights(attention: Tensor, kernel: Tensor, *layers: Tensor) -> Tensor:
    """Compute the same with the attention multiplied into the kernel."""
    scale = attention.repeat_interleave(layers[0].shape[1], dim=1)[:, None]
    return conv1x1_of_layers(layers, kernel.flatten(1) * scale)


def _finest_level(settings: Settings) -> tuple[int, int]:
    """Return the size of the map of stride 8 of an image that is padded to a multiple of 32."""
    return tuple(math.ceil(side / 32) * 4 for side in settings.size)


def paste_masks(settings: Settings) -> Table:
    """Pasting the masks of 100 detections into an image on the CPU, each time in a fresh process."""
    rows = []
    for case, boxes in detected_boxes(settings.size).items():
        arguments = (boxes, settings.size, settings.threads)
        run = paste_in_fresh_process if settings.separate_processes else paste
        rounds = [run(*arguments) for _ in range(settings.repeat)]
        time, result, peak = map(median, zip(*rounds, strict=True))
        rows.append([case, milliseconds(time), *map(megabytes, (result, peak, peak - result))])
    return Table(["100 masks", "ms", "result MB", "peak MB", "beyond the result MB"], rows)


def detected_boxes(size: tuple[int, int]) -> dict[str, Tensor]:
    """Return cases of 100 boxes (100, 4) in an image of ``size``."""
    small, mixed = (random_boxes(100, size, largest=largest)[0] for largest in (100.0, 1800.0))
    covering = torch.tensor([[0.0, 0.0, size[1], size[0]]]).repeat(100, 1)
    few_covering = small.clone()
    few_covering[::20] = covering[::20]
    return {
        "boxes of 12 to 100 pixels": small,
        "boxes of 12 to 1800 pixels": mixed,
        "five boxes cover the image, the others are small": few_covering,
        "all boxes cover the image": covering,
    }


def paste_in_fresh_process(*arguments) -> tuple[float, float, float]:
    """Return what :func:`paste` returns in a process of its own."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(paste, arguments)


def paste(boxes: Tensor, size: tuple[int, int], threads: int = 1) -> tuple[float, float, float]:
    """Paste one mask per box (P, 4) into an image of ``size`` with the function of our mask branches.

    Returns:
        The seconds, the bytes of the result, and the peak memory, result included.
    """
    torch.set_num_threads(threads)
    masks = torch.rand(len(boxes), 28, 28, generator=torch.Generator().manual_seed(0))
    paste_masks_in_image(masks[:1], torch.tensor([[0.0, 0.0, 20.0, 20.0]]), (30, 30))  # warm-up
    cpu, results = torch.device("cpu"), []
    peak = PeakMemory(cpu)
    time = seconds(lambda: results.append(paste_masks_in_image(masks, boxes, size)), cpu)
    return time, results[0].numel() * results[0].element_size(), peak.bytes()


# Name on the command line -> what measures it.
OPERATORS: dict[str, Callable[[Settings], Table]] = {
    "roi_align": roi_align,
    "deform_conv": deform_conv,
    "htd_second_stage": htd_second_stage,
    "offset_roi_pool": offset_roi_pool,
    "sampled_boxes": sampled_boxes,
    "task_decomposition": task_decomposition,
    "paste_masks": paste_masks,
}
