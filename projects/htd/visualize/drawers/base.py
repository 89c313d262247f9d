"""What a drawer is, and what drawers share.

A drawer names parts of a model and makes a picture of what went through them. Models compute in pixels of the
network's input, pictures are in those of the image. Boxes are XYXY.

Symbols: P priors of all levels, or RoIs that are regressed; K classes; B box coordinates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from detectron2.structures import Instances
from torch import Tensor, nn

from htd.layers import ContinuousBoxes, clip_boxes
from htd.modeling.cascade import CascadeStage, RoIContext, of_class
from htd.modeling.dense import DensePredictions, Priors
from htd.visualize.canvas import class_name
from htd.visualize.side_by_side import draw_side_by_side

Part = TypeVar("Part", bound=nn.Module)
_ROUNDING = 0.1  # pixels that a detection may lie from the box that it was made of


class Call(NamedTuple):
    """One call of a part: its positional arguments and what it returned."""

    inputs: tuple
    output: Any


@dataclass(frozen=True)
class Scene:
    """An image and what a model has found on it."""

    image_rgb: np.ndarray  # (H, W, 3) uint8, the image as it is in its file
    network_size: tuple[int, int]  # (height, width) of the network's input
    detections: Instances  # those to be drawn, on the CPU, in the frame of ``image_rgb``, best first
    class_names: tuple[str, ...]  # names by class; maybe fewer than there are classes
    score_threshold: float  # the detections have at least this score
    max_regions: int  # drawers of single regions show at most so many


class Drawer:
    """Draws one side of what a model does.

    Args:
        parts: modules of the model by name, whose calls the drawer wants to see.
    """

    name: str  # of the pictures, a single word

    def __init__(self, parts: Mapping[str, nn.Module] | None = None):
        self.parts = dict(parts or {})

    @classmethod
    def of(cls, model: nn.Module) -> Drawer | None:
        """Return a drawer for a model, None if the model lacks the parts that are drawn."""
        raise NotImplementedError

    def draw(self, scene: Scene, calls: Mapping[str, list[Call]]) -> np.ndarray | None:
        """Return a picture (H', W', 3) uint8, RGB; None if there is nothing to show.

        Args:
            scene: the image and its detections.
            calls: of each part, in their order, those of the inference that made the detections.
        """
        raise NotImplementedError


class DetectionsDrawer(Drawer):
    """Boxes, classes, scores and masks of any model on the image."""

    name = "detections"

    @classmethod
    def of(cls, model: nn.Module) -> DetectionsDrawer:
        """Return the drawer, which suits every model."""
        return cls()

    def draw(self, scene: Scene, calls: Mapping[str, list[Call]]) -> np.ndarray:
        """Return the image with its detections, small images enlarged."""
        return draw_side_by_side(
            scene.image_rgb, None, scene.detections, scene.class_names, scene.score_threshold
        )


def find(module: nn.Module, kind: type[Part]) -> Part | None:
    """Return the first part of a kind in a module, None if there is none."""
    return next((part for part in module.modules() if isinstance(part, kind)), None)


@contextmanager
def recorded(parts: Mapping[str, nn.Module]) -> Iterator[dict[str, list[Call]]]:
    """Record the calls of modules by name as long as the context lasts."""
    calls: dict[str, list[Call]] = {name: [] for name in parts}

    def hook_for(name: str):
        return lambda module, inputs, output: calls[name].append(Call(inputs, output))

    handles = [module.register_forward_hook(hook_for(name)) for name, module in parts.items()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def label(scene: Scene, detection: int) -> str:
    """Return class and score of a detection."""
    shown = scene.detections[detection]
    return f"{class_name(int(shown.pred_classes), scene.class_names)} {float(shown.scores):.2f}"


def in_image(boxes: Tensor, scene: Scene, convention: ContinuousBoxes | None = None) -> Tensor:
    """Bring boxes (n, 4) of a convention (continuous if None) to the frame of the image, on the CPU."""
    rescale = (convention or ContinuousBoxes()).rescale
    return rescale(boxes, scene.network_size, scene.image_rgb.shape[:2]).float().cpu()


def points_in_image(points: Tensor, scene: Scene) -> Tensor:
    """Bring points (..., 2) to the frame of the image, on the CPU."""
    (height, width), (rows, columns) = scene.image_rgb.shape[:2], scene.network_size
    return points.float().cpu() * torch.tensor([width / columns, height / rows])


def shown_once(origins: Sequence[int], scene: Scene) -> dict[int, int]:
    """Return the best detection of each prior or RoI that detections come from, ``max_regions`` at most.

    A prior or RoI may be detected as several classes; ``origins`` are those of the detections, best first.
    """
    best: dict[int, int] = {}
    for detection, origin in enumerate(origins):
        best.setdefault(origin, detection)
    return dict(list(best.items())[: scene.max_regions])


def roi_origins(
    stage: CascadeStage, context: RoIContext, boxes: Tensor, deltas: Tensor, scene: Scene
) -> list[int]:
    """Return for each detection the RoI (0..P-1) whose box, refined by the last stage, lies nearest.

    ``deltas`` (P, B) refer to ``boxes`` (P, 4).
    """
    decoded = stage.decode(deltas, boxes)
    origins = []
    for box, k in zip(scene.detections.pred_boxes.tensor, scene.detections.pred_classes, strict=True):
        refined = of_class(decoded, torch.full((len(decoded),), int(k), device=decoded.device))
        clipped = context.box_convention.clip(refined, context.image_sizes[0])
        distance = (in_image(clipped, scene, context.box_convention) - box).abs().sum(dim=1)
        origins.append(int(distance.argmin()))
    return origins


def index_of(boxes: Tensor, box: Tensor) -> int:
    """Return the index of the first of boxes (n, 4) equal to a box; equal RoIs are treated equally."""
    return int((boxes == box).all(dim=1).nonzero()[0])


def class_scores(predictions: DensePredictions) -> Tensor:
    """Return the scores (P, K) of the first image: of classes, times the centerness if there is one."""
    scores = predictions.logits[0].sigmoid()
    if predictions.centerness is not None:
        scores = scores * predictions.centerness[0].sigmoid()[:, None]
    return scores


def level_of(priors: Priors, prior: int) -> int:
    """Return the number of the level of a prior."""
    return int(np.searchsorted(np.cumsum(priors.level_sizes), prior, side="right"))


def prior_origins(boxes: Tensor, scores: Tensor, scene: Scene) -> list[int]:
    """Return for each detection the prior (0..P-1) that it comes from.

    It is the one whose decoded box (P, 4), as it is or clipped to the image, lies where the detection is; of
    several the one whose score (P, K) is nearest to the detection's.
    """
    boxes = in_image(boxes, scene)
    clipped = clip_boxes(boxes, scene.image_rgb.shape[:2])
    shown = scene.detections
    origins = []
    for box, k, score in zip(shown.pred_boxes.tensor, shown.pred_classes, shown.scores, strict=True):
        away, away_clipped = ((x - box).abs().sum(dim=1).nan_to_num(nan=torch.inf) for x in (boxes, clipped))
        distance = torch.minimum(away, away_clipped)
        difference = (scores[:, int(k)].cpu() - score).abs()
        too_far = distance > distance.min() + _ROUNDING
        origins.append(int(difference.masked_fill(too_far, torch.inf).argmin()))
    return origins
