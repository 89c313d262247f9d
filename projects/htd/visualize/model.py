"""Pictures of what a model finds on an image, and of what it looks at."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from htd.visualize.drawers import Scene, drawers_of, recorded

_LOGGER = logging.getLogger(__name__)


def draw_model(
    model: nn.Module,
    inputs: dict,
    image_rgb: np.ndarray,
    class_names: Sequence[str] = (),
    *,
    score_threshold: float = 0.5,
    max_objects: int = 100,
    max_regions: int = 3,
) -> dict[str, np.ndarray]:
    """Detect objects on one image and draw them, and what the parts of the model did meanwhile.

    Args:
        model: a detector; it is run once, in evaluation mode, and left in the mode that it was in.
        inputs: the model's input as a test mapper makes it: ``image`` (3, h, w) at network size, ``height``
            and ``width`` of ``image_rgb``.
        image_rgb: (H, W, 3) uint8, the image as it is in its file.
        class_names: names by class; a class beyond them is shown by its number.
        score_threshold: detections with a lower score are not drawn.
        max_objects: only so many detections are drawn, the best.
        max_regions: single regions are drawn for only so many of them, the best.

    Returns:
        Pictures (H', W', 3) uint8, RGB, by the names of their drawers: ``detections``, and those that
        :data:`htd.visualize.drawers.DRAWERS` has for this model; a drawer with nothing to show is left out.
    """
    drawers = drawers_of(model)
    parts = {f"{d.name}/{name}": part for d in drawers for name, part in d.parts.items()}
    was_training = model.training
    try:
        with torch.no_grad(), recorded(parts) as calls:
            detections = model.eval()([inputs])[0]["instances"].to(torch.device("cpu"))
    finally:
        model.train(was_training)
    if not (detections.scores >= score_threshold).any():
        best = "the model gives none: train it further, or lower the score_threshold of its config"
        if len(detections):
            best = f"the highest score is {detections.scores.max():.3g}; lower --score-threshold"
        _LOGGER.warning("no detection scores %g or more, %s", score_threshold, best)
    detections = detections[detections.scores >= score_threshold]
    detections = detections[detections.scores.argsort(descending=True, stable=True)[:max_objects]]
    size = tuple(inputs["image"].shape[-2:])
    scene = Scene(image_rgb, size, detections, tuple(class_names), score_threshold, max_regions)
    pictures = {}
    for drawer in drawers:
        own = {name: calls[f"{drawer.name}/{name}"] for name in drawer.parts}
        picture = drawer.draw(scene, own)
        if picture is not None:
            pictures[drawer.name] = picture
    return pictures
