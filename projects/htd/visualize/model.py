"""Pictures of what a model finds on an image, and of what it looks at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from htd.visualize.drawers import Scene, drawers_of, recorded


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
        max_objects: so many detections are drawn, the best.
        max_regions: of so many of them, the best, single regions are drawn.

    Returns:
        Pictures (H', W', 3) uint8, RGB, by the names of their drawers: ``detections``, and those that
        :data:`htd.visualize.drawers.DRAWERS` has for this model.
    """
    drawers = drawers_of(model)
    parts = {f"{d.name}/{name}": part for d in drawers for name, part in d.parts.items()}
    was_training = model.training
    try:
        with torch.no_grad(), recorded(parts) as calls:
            found = model.eval()([inputs])[0]["instances"].to(torch.device("cpu"))
    finally:
        model.train(was_training)
    found = found[found.scores >= score_threshold]
    found = found[found.scores.argsort(descending=True, stable=True)[:max_objects]]
    size = tuple(inputs["image"].shape[-2:])
    scene = Scene(image_rgb, size, found, tuple(class_names), score_threshold, max_regions)
    return {d.name: d.draw(scene, {name: calls[f"{d.name}/{name}"] for name in d.parts}) for d in drawers}
