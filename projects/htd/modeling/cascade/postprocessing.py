"""From the logits and boxes of a cascade to detections: fusion of stages, threshold, NMS.

Symbols: R RoIs of one image, K foreground classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from htd.layers import ContinuousBoxes, suppress_best


class MeanLogits:
    """Fuses stages by the softmax of their mean logits (the published cascades)."""

    def __call__(self, logits: Sequence[Tensor]) -> Tensor:
        """Map the stages' logits (R, K + 1) to scores (R, K + 1)."""
        return (sum(x.float() for x in logits) / len(logits)).softmax(dim=1)


class MeanProbabilities:
    """Fuses stages by the mean of their softmax scores (Detectron2's cascade)."""

    def __call__(self, logits: Sequence[Tensor]) -> Tensor:
        """Map the stages' logits (R, K + 1) to scores (R, K + 1)."""
        return sum(x.float().softmax(dim=1) for x in logits) / len(logits)


class LastStage:
    """Takes the scores of the last stage alone."""

    def __call__(self, logits: Sequence[Tensor]) -> Tensor:
        """Map the stages' logits (R, K + 1) to scores (R, K + 1)."""
        return logits[-1].float().softmax(dim=1)


@dataclass(frozen=True)
class RoIPredictions:
    """Boxes and scores of one image before any choice among them.

    Attributes:
        boxes: (R, 4), (R, 4K) or (R, 4K + 4), clipped to the image, pixels of the frame ``image_size`` names.
        scores: (R, K + 1), background last.
        image_size: (height, width) of the frame.
        box_convention: rescales boxes, see :mod:`htd.layers.boxes`.
    """

    boxes: Tensor
    scores: Tensor
    image_size: tuple[float, float]
    box_convention: ContinuousBoxes = field(default_factory=ContinuousBoxes)

    def resized(self, height: float, width: float) -> RoIPredictions:
        """Return the predictions in a frame of ``height`` x ``width`` pixels. Nothing is clipped."""
        size, boxes = (height, width), self.boxes.unflatten(1, (-1, 4))
        boxes = self.box_convention.rescale(boxes, self.image_size, size).flatten(1)
        return replace(self, boxes=boxes, image_size=size)


class DetectionPostProcessing:
    """Turns predictions into detections: score threshold, class-wise NMS, best by score.

    Args:
        score_threshold: (RoI, class) pairs must score above it.
        nms: :class:`htd.layers.HardNMS` or :class:`htd.layers.SoftNMS`.
        max_detections: detections to keep in an image.
    """

    def __init__(self, *, score_threshold: float, nms, max_detections: int):
        self.score_threshold = score_threshold
        self.nms = nms
        self.max_detections = max_detections

    def may_keep(self, scores: Tensor) -> Tensor:
        """Return which RoIs (R,) bool have a foreground class above the threshold."""
        return (scores[:, :-1] > self.score_threshold).any(dim=1)

    def __call__(self, predictions: RoIPredictions) -> Instances:
        """Return ``pred_boxes``, ``scores`` and ``pred_classes`` of one image, best first.

        RoIs with a box or score that is not finite are left out.
        """
        boxes, scores = predictions.boxes.float(), predictions.scores[:, :-1]
        finite = torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores).all(dim=1)
        rows, classes = ((scores > self.score_threshold) & finite[:, None]).nonzero(as_tuple=True)
        boxes = boxes.unflatten(1, (-1, 4))
        boxes = boxes[rows, 0] if boxes.shape[1] == 1 else boxes[rows, classes]
        keep, kept_scores = suppress_best(
            self.nms, boxes, scores[rows, classes], classes, self.max_detections
        )
        return Instances(
            predictions.image_size,
            pred_boxes=Boxes(boxes[keep]),
            scores=kept_scores,
            pred_classes=classes[keep],
        )
