"""From the detections of a dense model back to the priors that they come from.

Symbols: P priors of all levels, K classes. Boxes are XYXY.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from htd.layers import clip_boxes
from htd.modeling.dense import DensePredictions, Priors
from htd.visualize.drawers.base import Scene
from htd.visualize.drawers.frame import in_image

_ROUNDING = 0.1  # pixels that a detection may lie from the box that it was made of


def class_scores(predictions: DensePredictions) -> Tensor:
    """Return the scores (P, K) of the first image: of classes, times the centerness if there is one."""
    scores = predictions.logits[0].sigmoid()
    if predictions.centerness is not None:
        scores = scores * predictions.centerness[0].sigmoid()[:, None]
    return scores


def level_of(priors: Priors, prior: int) -> int:
    """Return the number of the level of a prior."""
    return int(np.searchsorted(np.cumsum(priors.level_sizes), prior, side="right"))


def origins(boxes: Tensor, scores: Tensor, scene: Scene) -> list[int]:
    """Return for each detection the prior (0..P-1) that it comes from.

    Detections do not say it: it is the one whose box, as it is or clipped to the image, lies where the
    detection is, and of several the one whose score is most like the detection's.

    Args:
        boxes: (P, 4), decoded, in pixels of the network's input.
        scores: (P, K).
        scene: with the detections.
    """
    boxes = in_image(boxes, scene)
    clipped = clip_boxes(boxes, scene.image_rgb.shape[:2])
    found = scene.detections
    rows = []
    for box, k, score in zip(found.pred_boxes.tensor, found.pred_classes, found.scores, strict=True):
        away, away_clipped = ((x - box).abs().sum(dim=1).nan_to_num(nan=torch.inf) for x in (boxes, clipped))
        distance = torch.minimum(away, away_clipped)
        unlike = (scores[:, int(k)].cpu() - score).abs()
        rows.append(int(unlike.masked_fill(distance > distance.min() + _ROUNDING, torch.inf).argmin()))
    return rows
