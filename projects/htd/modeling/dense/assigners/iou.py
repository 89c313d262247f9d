"""Assignment by fixed thresholds of the IoU of anchors and objects."""

from __future__ import annotations

import torch
from torch import Tensor

from htd.layers import match_by_iou
from htd.layers.sampling import full_precision
from htd.modeling.dense.assigners.base import BACKGROUND, UNUSED, Assigner, Assignment, Predicted
from htd.modeling.dense.priors import Priors


class IoUAssigner(Assigner):
    """Anchors find an object that they overlap by ``positive_iou``; each object also gets its best anchors.

    Paper: Focal Loss for Dense Object Detection, section 4. The rule is :func:`htd.layers.match_by_iou`;
    anchors that it leaves between positives and negatives are unused. As in the published implementation an
    object has its best anchors even where another object overlaps them better; Detectron2 leaves them to it.

    Args:
        positive_iou, negative_iou: thresholds in [0, 1].
        low_quality_iou: least IoU that an object claims its best anchors with, in [0, 1].
        pairs_at_once: pairs of prior and object held in memory at a time.
    """

    def __init__(
        self,
        *,
        positive_iou: float = 0.5,
        negative_iou: float = 0.4,
        low_quality_iou: float = 0.0,
        pairs_at_once: int = 2**22,
    ):
        self.positive_iou = positive_iou
        self.negative_iou = negative_iou
        self.low_quality_iou = low_quality_iou
        self.pairs_at_once = pairs_at_once

    def __call__(
        self,
        priors: Priors,
        valid: Tensor,
        gt_boxes: Tensor,
        gt_classes: Tensor,
        predicted: Predicted | None = None,
    ) -> Assignment:
        """Assign; see :class:`Assigner`."""
        labels, index = match_by_iou(
            # An anchor without extent overlaps nothing, so no object gets it.
            torch.where(valid[:, None], full_precision(priors.boxes), 0),
            full_precision(gt_boxes),
            positive_iou=self.positive_iou,
            negative_iou=self.negative_iou,
            low_quality_iou=self.low_quality_iou,
            pairs_at_once=self.pairs_at_once,
        )
        found = torch.where(labels == 1, index, torch.where(labels == 0, BACKGROUND, UNUSED))
        return Assignment.ungraded(found, valid)
