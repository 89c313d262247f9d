"""TSD: its pooling beside RoIAlign, and the whole detector beside Faster R-CNN."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from detectron2.config import LazyConfig, instantiate
from torch import Tensor, nn

from benchmark_inputs import IMAGE, STRIDES, random_regions
from benchmark_measure import Comparison, compare
from benchmark_models import Candidate, Settings, beside_the_first
from benchmark_steady import steady
from benchmark_tables import Table
from htd.layers import FeatureTable, RoundedRegions, offset_roi_pool
from htd.layers.roi_align import pool_by_torchvision

MODELS = Path(__file__).resolve().parent.parent / "configs" / "common" / "models"
# Each pair has the same backbone, RPN, conventions and RoI pooling.
PAIRS = {
    "legacy conventions": ("faster_rcnn_legacy", "tsd_faster_legacy"),
    "continuous boxes": ("faster_rcnn", "tsd_faster"),
}


def offset_pooling(repeat: int, device: torch.device) -> list[Comparison]:
    """TSD's pooling beside torchvision's RoIAlign with 2x2 samples, both with the 1000 RoIs of one image.

    Ours makes its rows of the maps anew, or has them at hand, as in a detector, whose plain pooling has
    made them.
    """
    maps = [
        torch.randn(1, 256, math.ceil(IMAGE[0] / s), math.ceil(IMAGE[1] / s), device=device) for s in STRIDES
    ]
    for features in maps:
        features.requires_grad_()
    boxes, levels = (t.to(device) for t in random_regions(1000))
    generator = torch.Generator().manual_seed(0)
    made = FeatureTable([features.detach() for features in maps], STRIDES)
    made.rows  # noqa: B018
    rows = []
    for name, shape in (("an offset a bin", (1000, 2, 7, 7)), ("one offset", (1000, 2))):
        offsets = (0.1 * torch.randn(shape, generator=generator)).to(device).requires_grad_()
        for phase, table in (
            ("forward, rows at hand", lambda: made),
            ("forward", partial(FeatureTable, maps, STRIDES)),
            ("forward + backward", partial(FeatureTable, maps, STRIDES)),
        ):
            displaced = partial(_pool_displaced, offsets=offsets)
            functions = [
                partial(_run, pool, table, boxes, levels, [*maps, offsets] if "backward" in phase else [])
                for pool in (_pool_plainly, displaced)
            ]
            rows.append(compare(f"1000 RoIs, {name}, {phase}", *functions, repeat, device))
    return rows


def _run(pool: Callable, table: Callable, boxes: Tensor, levels: Tensor, wanted: list[Tensor]) -> None:
    with torch.set_grad_enabled(bool(wanted)):
        out = pool(table(), boxes, torch.zeros_like(levels), levels)
        if wanted:
            torch.autograd.grad(out, wanted, out.detach(), allow_unused=True)


def _pool_plainly(table: FeatureTable, boxes: Tensor, image_index: Tensor, levels: Tensor) -> Tensor:
    return pool_by_torchvision(table, boxes, image_index, levels, 7, 2)


def _pool_displaced(
    table: FeatureTable, boxes: Tensor, image_index: Tensor, levels: Tensor, *, offsets: Tensor
) -> Tensor:
    settings = {"output_size": 7, "regions": RoundedRegions()}
    return offset_roi_pool(table, boxes, image_index, levels, offsets, **settings)


def detector(name: str, pooler: str) -> nn.Module:
    """Return a model whose RoIs and detections do not depend on its weights, and keep to one threshold.

    Args:
        name: of its file under configs/common/models.
        pooler: of the file whose first stage has the RoI pooling to use.
    """
    model = LazyConfig.load(str(MODELS / f"{name}.py")).model
    pooling = LazyConfig.load(str(MODELS / f"{pooler}.py")).model.roi_heads.stages[0].head.features
    model.roi_heads.stages[0].head.features = pooling
    model.roi_heads.selection.score_threshold = 0.05
    return steady(instantiate(model))


def _beside_faster(figures: tuple[str, ...], settings: Settings, overrides: Sequence[str]) -> Table:
    candidates = [
        Candidate(f"{name}, {kind}", partial(detector, name, pair[0]))
        for kind, pair in PAIRS.items()
        for name in pair
    ]
    return beside_the_first(candidates, figures, settings, group=2)


# name on the command line -> function(settings, overrides) -> table
MODEL_COMPONENTS: dict[str, Callable[[Settings, Sequence[str]], Table]] = {
    "tsd_inference": partial(_beside_faster, ("inference_bytes", "inference_seconds")),
    "tsd_training": partial(_beside_faster, ("training_bytes", "training_seconds")),
}
