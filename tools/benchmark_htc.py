"""HTC beside Cascade Mask R-CNN: memory of training, time of inference, and its four forms on any device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import detectron2
from detectron2.config import LazyConfig, instantiate
from torch import nn

from benchmark_models import Candidate, Settings, measure_alone, measure_models
from benchmark_steady import steady
from benchmark_tables import Table, number
from htd.engine.config import load_config

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
CASCADE = "baselines/cascade_mask_rcnn_r50_fpn_1x.py"
HTC, WITHOUT_SEMANTIC = "htc/htc_r50_fpn_1x.py", "htc/htc_without_semantic_r50_fpn_1x.py"
FORMS = ("htc/htc_box_r50_fpn_1x.py", WITHOUT_SEMANTIC, HTC, "htc/htc_r50_fpn_1x_instance_maps.py")
CHECKPOINTED = "model.roi_heads.mask_branch.checkpoint_heads=True"
MEMORY_ROWS = ("Cascade Mask R-CNN", "the same + semantic branch alone", "HTC without semantics", "HTC")


def steady_model(path: str, overrides: Sequence[str]) -> nn.Module:
    """Return the model of a config, its RoIs and detections given."""
    return steady(instantiate(load_config(str(CONFIGS / path), overrides).model))


def cascade_with_semantics(overrides: Sequence[str]) -> nn.Module:
    """Return Cascade Mask R-CNN that also runs, and learns, HTC's semantic branch, and does not use it."""
    model = load_config(str(CONFIGS / CASCADE), overrides).model
    htc = load_config(str(CONFIGS / HTC), overrides).model
    model.sem_seg_ignore_value = htc.sem_seg_ignore_value
    model.roi_heads.context.semantic = htc.roi_heads.context.semantic
    return steady(instantiate(model))


def detectron2_cascade() -> nn.Module:
    """Return Detectron2's Cascade Mask R-CNN, R-50 FPN, which has one mask head; frozen like ours."""
    configs = Path(detectron2.__file__).parent / "model_zoo" / "configs"
    model = LazyConfig.load(str(configs / "common" / "models" / "cascade_rcnn.py")).model
    model.backbone.bottom_up.freeze_at = 2
    return steady(instantiate(model))


def htc_memory(settings: Settings, overrides: Sequence[str]) -> Table:
    """Measure the peak of a training step of each model, alone in its process."""
    settings = settings._replace(figures=("training_bytes",))
    peaks = []
    for more in ((), (CHECKPOINTED,)):
        found = measure_alone(_memory_candidates((*overrides, *more)), settings)
        peaks.append([cost.figures["training_bytes"] / 1e6 for cost in found])
    rows = [[name, *map(number, peak)] for name, *peak in zip(MEMORY_ROWS, *peaks, strict=True)]
    shares = [peak[3] - peak[2] for peak in peaks]
    rows.append(["share of the semantic branch in HTC", *map(number, shares)])
    rows.append(["HTC / Cascade Mask R-CNN", *(f"{peak[3] / peak[0]:.2f}" for peak in peaks)])
    return Table(["training step", "MB", "MB, mask heads checkpointed"], rows)


def _memory_candidates(overrides: tuple[str, ...]) -> list[Candidate]:
    builders = (
        partial(steady_model, CASCADE, overrides),
        partial(cascade_with_semantics, overrides),
        partial(steady_model, WITHOUT_SEMANTIC, overrides),
        partial(steady_model, HTC, overrides),
    )
    return [Candidate(name, build) for name, build in zip(MEMORY_ROWS, builders, strict=True)]


def htc_inference(settings: Settings, overrides: Sequence[str]) -> Table:
    """Time HTC with masks against what it is made of: Cascade Mask R-CNN and the semantic branch alone."""
    overrides = tuple(overrides)
    candidates = [
        Candidate("Cascade Mask R-CNN + semantic branch alone", partial(cascade_with_semantics, overrides)),
        Candidate("HTC", partial(steady_model, HTC, overrides)),
    ]
    figures = ("inference_bytes", "inference_seconds", "detections")
    found = [cost.figures for cost in measure_models(candidates, settings._replace(figures=figures))]
    rows = [
        [
            candidate.label,
            number(1e3 * figures["inference_seconds"]),
            f"{figures['inference_seconds'] / found[0]['inference_seconds']:.3f}",
            number(figures["inference_bytes"] / 1e6),
            number(figures["detections"]),
        ]
        for candidate, figures in zip(candidates, found, strict=True)
    ]
    return Table(["inference", "ms", "ratio", "MB", "detections"], rows)


def htc_forms(settings: Settings, overrides: Sequence[str]) -> Table:
    """Measure the four forms of HTC and Detectron2's Cascade Mask R-CNN, which overrides do not reach."""
    figures = ("inference_bytes", "inference_seconds", "training_bytes", "training_seconds")
    found = measure_models(_form_candidates(tuple(overrides)), settings._replace(figures=figures))
    rows = []
    for cost in found:
        row = [cost.label]
        for phase in ("inference", "training"):
            row.append(f"{settings.images / cost.figures[f'{phase}_seconds']:.3g}")
            row.append(number(cost.figures[f"{phase}_bytes"] / 1e6))
        rows.append(row)
    return Table(["model", "inference images/s", "MB", "training images/s", "MB"], rows)


def _form_candidates(overrides: tuple[str, ...]) -> list[Candidate]:
    theirs = Candidate("Detectron2's Cascade Mask R-CNN", detectron2_cascade, masks="polygon")
    ours = [Candidate(path, partial(steady_model, path, overrides)) for path in (CASCADE, *FORMS)]
    return [theirs, *ours]


# name on the command line -> function(settings, overrides) -> table
MODEL_COMPONENTS: dict[str, Callable[[Settings, Sequence[str]], Table]] = {
    "htc_memory": htc_memory,
    "htc_inference": htc_inference,
    "htc_forms": htc_forms,
}
