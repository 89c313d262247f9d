"""From the detections of a two-stage model back to the RoIs that they come from.

Symbols: P RoIs of the image that are regressed, B box coordinates. Boxes are XYXY.
"""

from __future__ import annotations

import torch
from torch import Tensor

from htd.modeling.cascade import CascadeStage, RoIContext, of_class
from htd.visualize.drawers.base import Scene
from htd.visualize.drawers.frame import in_image


def sources(
    stage: CascadeStage, context: RoIContext, boxes: Tensor, deltas: Tensor, scene: Scene
) -> list[int]:
    """Return for each detection the row (0..P-1) of the RoI that it comes from.

    Detections do not say it: it is the one whose box, refined by the stage, lies nearest.

    Args:
        stage: the last one.
        context: of the image.
        boxes: (P, 4), what the deltas refer to, in pixels of the network's input.
        deltas: (P, B).
        scene: with the detections.
    """
    decoded = stage.decode(deltas, boxes)
    rows = []
    for box, k in zip(scene.detections.pred_boxes.tensor, scene.detections.pred_classes, strict=True):
        refined = of_class(decoded, torch.full((len(decoded),), int(k), device=decoded.device))
        clipped = context.convention.clip(refined, context.image_sizes[0])
        away = (in_image(clipped, scene, context.convention) - box).abs().sum(dim=1)
        rows.append(int(away.argmin()))
    return rows


def row_of(boxes: Tensor, box: Tensor) -> int:
    """Return the first row of boxes (n, 4) that is equal to a box; equal RoIs are treated equally."""
    return int((boxes == box).all(dim=1).nonzero()[0])
