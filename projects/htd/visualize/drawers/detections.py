"""Draws the detections of any model, with masks where it has them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import nn

from htd.visualize.drawers.base import Call, Drawer, Scene
from htd.visualize.side_by_side import draw_side_by_side


class DetectionsDrawer(Drawer):
    """Boxes, classes, scores and masks on the image."""

    name = "detections"

    @classmethod
    def of(cls, model: nn.Module) -> DetectionsDrawer:
        """Return the drawer, which suits every model."""
        return cls()

    def draw(self, scene: Scene, calls: Mapping[str, list[Call]]) -> np.ndarray:
        """Return the image with its detections, small ones enlarged."""
        return draw_side_by_side(
            scene.image_rgb, None, scene.detections, scene.class_names, scene.score_threshold
        )
