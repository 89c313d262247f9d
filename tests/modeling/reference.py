"""What the recorded cases of all systems share: tolerances, configs, the passes of a cascade."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.config import LazyConfig
from omegaconf import DictConfig
from torch import nn

from htd.modeling.cascade import ClassificationOutput, RoIContext, RoIs


def numbers(values) -> np.ndarray:
    """Return tensors on any device, with or without a gradient, arrays and lists as a float64 array."""
    values = values.detach().cpu() if isinstance(values, torch.Tensor) else values
    return np.asarray(values, np.float64)


@dataclass(frozen=True)
class Tolerance:
    """The largest allowed difference: ``absolute + relative * abs(reference)``, but not below ``least``."""

    absolute: float = 0.0
    relative: float = 0.0
    least: float = 0.0

    def check(self, found, wanted) -> None:
        """Fail unless two arrays are of one shape and equal within the tolerance."""
        found, wanted = numbers(found), numbers(wanted)
        assert found.shape == wanted.shape
        limit = np.maximum(self.least, self.absolute + self.relative * np.abs(wanted))
        far = ~(np.abs(found - wanted) <= limit)
        assert not far.any(), f"{far.sum()} of {far.size}, found {found[far][:5]}, wanted {wanted[far][:5]}"


EXACT = Tolerance()


def on(device, arrays):
    return {name: x.to(device) for name, x in arrays.items()}


def detections(instances):
    """Boxes, scores and labels as :func:`tests.recorded.unpaired` takes them."""
    found = instances.to("cpu")
    return {"boxes": found.pred_boxes.tensor, "scores": found.scores, "labels": found.pred_classes}


class Recorder:
    """A rule that remembers what it has returned."""

    def __init__(self, rule):
        self.rule = rule
        self.results = []

    def __call__(self, *inputs, **named):
        self.results.append(self.rule(*inputs, **named))
        return self.results[-1]

    def __getattr__(self, name):
        return getattr(self.rule, name)


def model_config(leaf: str) -> DictConfig:
    """Return the model of a config, such as ``htc/htc_r50_fpn_1x``."""
    return LazyConfig.load(f"configs/{leaf}.py").model


def gradient_norm(tensor: torch.Tensor) -> float:
    """Return the norm of a tensor's gradient, 0 if there is none.

    In float32 the sum over the 13 million weights of a large layer would be wrong by a thousandth.
    """
    return 0.0 if tensor.grad is None else tensor.grad.double().norm().item()


@dataclass(frozen=True)
class Pass:
    """One stage of a cascade on its R RoIs: what its head gave for them."""

    rois: RoIs
    classified: ClassificationOutput
    deltas: torch.Tensor

    def rows(self, boxes: torch.Tensor) -> torch.Tensor:
        """Return boxes (R, 4) of the RoIs with the index of their image (R, 5)."""
        return torch.cat([self.rois.image_index[:, None].to(boxes.dtype), boxes], dim=1)


@torch.no_grad()
def passes_of(heads: nn.Module, context: RoIContext, boxes: Sequence[torch.Tensor]) -> list[Pass]:
    """Return the passes of all stages, each on the boxes that the one before has refined."""
    passes = []
    for stage in heads.stages:
        rois = context.rois(boxes)
        read = (passes[-1].classified.classifier,) if stage.head.reads_classifier else ()
        output = stage.head.classify(context, rois, *read)
        every = torch.arange(len(rois), device=rois.boxes.device)
        deltas = stage.head.regress(context, rois, output, every)
        passes.append(Pass(rois, output, deltas))
        boxes = stage.refine(context, rois, output, deltas)
    return passes
