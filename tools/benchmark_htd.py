"""HTD's second stage: the plain published formulation, which lives in the tests, and ours."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import torch
from detectron2.config import LazyConfig, instantiate

from benchmark_inputs import IMAGE, STRIDES, random_regions
from benchmark_measure import Comparison, compare
from htd.errors import UserError
from htd.layers import FeatureTable
from htd.modeling.cascade import Classified, LevelRule, RoIContext

ROOT = Path(__file__).resolve().parent.parent
CHANNELS = 256


def htd_second_stage(repeat: int, device: torch.device) -> list[Comparison]:
    """Time 1000 RoIs of one image at inference and 512 RoIs of each of two images in training.

    At inference only some of the RoIs have a class above the score threshold; the plain formulation
    regresses all of them. In training both regress the positives, a quarter of the samples.
    """
    plain = _plain_formulation()
    config = LazyConfig.load(str(ROOT / "configs" / "htd" / "htd_r50_fpn_1x.py")).model.roi_heads
    heads = instantiate(config).to(device).eval()
    rows = []
    for share in (0.0, 0.15, 0.5, 1.0):
        ours, theirs = _inference(plain, heads, share, device)
        rows.append(compare(f"inference, 1000 RoIs, {share:.0%} can be kept", theirs, ours, repeat, device))
    ours, theirs = _inference(plain, heads, 0.15, device, largest=800.0)
    rows.append(compare("inference, 1000 RoIs to 800 px, 15% can be kept", theirs, ours, repeat, device))
    ours, theirs = _training(plain, heads, device)
    rows.append(compare("training, 512 RoIs x 2 images, forward + backward", theirs, ours, repeat, device))
    return rows


def _plain_formulation():
    path = ROOT / "tests" / "reference" / "htd_second_stage.py"
    if not path.exists():
        raise UserError(f"the reference {path} is missing: run this from a complete checkout")
    spec = importlib.util.spec_from_file_location("htd_second_stage_reference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _inputs(num_images, rois_each, device, largest=1800.0):
    generator = torch.Generator().manual_seed(0)
    sizes = [[math.ceil(side / stride) for side in IMAGE] for stride in STRIDES]
    maps = [torch.randn(num_images, CHANNELS, *size, generator=generator).to(device) for size in sizes]
    boxes = [random_regions(rois_each, seed=i, largest=largest)[0].to(device) for i in range(num_images)]
    vector = (0.1 * torch.randn(num_images, CHANNELS, generator=generator)).to(device)
    return maps, boxes, vector


def _inference(plain, heads, share, device, largest=1800.0):
    maps, boxes, vector = _inputs(1, 1000, device, largest)
    head, classifier = heads.stages[1].head, heads.stages[0].head.cls_score
    rows = torch.randperm(1000, generator=torch.Generator().manual_seed(1))[: int(1000 * share)]
    rows = rows.sort().values.to(device)

    def ours():
        with torch.no_grad():
            _run(head, maps, boxes, vector, classifier, rows)

    def theirs():
        with torch.no_grad():
            flat = _with_image_index(boxes)
            plain.classify(head.classification, maps, flat, vector, classifier)
            plain.regress(head.regression, maps, flat, vector)

    return ours, theirs


def _training(plain, heads, device):
    maps, boxes, vector = _inputs(2, 512, device)
    head, classifier = heads.stages[1].head, heads.stages[0].head.cls_score
    sources = [m.requires_grad_() for m in maps] + list(head.parameters())
    rows = torch.cat([torch.arange(128), torch.arange(512, 640)]).to(device)

    def ours():
        logits, deltas = _run(head, maps, boxes, vector, classifier, rows)
        torch.autograd.grad(logits.sum() + deltas.sum(), sources)

    def theirs():
        flat = _with_image_index(boxes)
        logits = plain.classify(head.classification, maps, flat, vector, classifier)
        deltas = plain.regress(head.regression, maps, flat[rows], vector)
        torch.autograd.grad(logits.sum() + deltas.sum(), sources, allow_unused=True)

    return ours, theirs


def _run(head, maps, boxes, vector, classifier, rows):
    table = FeatureTable(maps, STRIDES)
    context = RoIContext(table, [IMAGE] * len(boxes), LevelRule(), {"global_vector": vector})
    rois = context.rois(boxes)
    nothing = vector.new_empty(0)
    classified = head.classify(context, rois, Classified(nothing, classifier, nothing))
    return classified.logits, head.regress(context, rois, classified, rows)


def _with_image_index(boxes):
    return torch.cat([torch.cat([b.new_full((len(b), 1), float(i)), b], dim=1) for i, b in enumerate(boxes)])
