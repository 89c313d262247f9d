"""Which anchors an image's ground truth makes objects and background, by the published rule.

Symbols: L levels; R_l anchors of level l, R of all levels; G ground-truth boxes of an image.
Boxes are XYXY in pixels of the resized input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from detectron2.structures import Boxes, pairwise_iou
from torch import Tensor

from htd.layers import ContinuousBoxes, last_claim


class AnchorLabeler:
    """Labels anchors, and only those that lie within the image take part in the matching.

    Paper: Faster R-CNN, section 3.1.2. An anchor is positive if its IoU with some ground truth is
    at least ``positive_iou``; negative if all are below ``negative_iou``. Each ground truth whose
    best IoU is at least ``low_quality_iou`` also claims every anchor that attains this best IoU; a
    later ground truth takes anchors from an earlier one. Detectron2 matches all anchors and drops
    those beyond the image afterwards: an object whose best anchor is dropped then has none.

    Args:
        positive_iou, negative_iou, low_quality_iou: thresholds in [0, 1].
        allowed_border: pixels an anchor may reach beyond the image without padding; the far sides
            must stay below width (height) plus this. Negative: no such limit.
        pad_divisor: an image's sides are padded to multiples of this; anchors of cells beyond an
            image's own padding (in a batch with a larger image) never take part.
        convention: tests boxes against the border, see :mod:`htd.layers.box_conventions`; continuous if None.
        pairs_at_once: pairs of anchor and ground truth held in memory at a time.
    """

    def __init__(
        self,
        *,
        positive_iou: float = 0.7,
        negative_iou: float = 0.3,
        low_quality_iou: float = 0.3,
        allowed_border: float = 0,
        pad_divisor: int = 32,
        convention: ContinuousBoxes | None = None,
        pairs_at_once: int = 2**22,
    ):
        self.positive_iou = positive_iou
        self.negative_iou = negative_iou
        self.low_quality_iou = low_quality_iou
        self.allowed_border = allowed_border
        self.pad_divisor = pad_divisor
        self.convention = convention or ContinuousBoxes()
        self.pairs_at_once = pairs_at_once

    def __call__(
        self, anchors: Sequence[Tensor], strides: Sequence[int], gt_boxes: Tensor, image_size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Label the anchors of one image.

        Args:
            anchors: L tensors (R_l, 4), centred on their cells.
            strides: pixels a cell of each level.
            gt_boxes: (G, 4).
            image_size: (height, width) without padding.

        Returns:
            labels (R,) int64: 1 positive, 0 negative, -1 not used; index (R,) int64 of the ground
            truth that a positive anchor belongs to, 0 elsewhere. Without ground truth all anchors
            that take part are negative; if none takes part all labels are -1.
        """
        inside = self.inside(anchors, strides, image_size)
        labels = torch.full_like(inside, -1, dtype=torch.int64)
        matched = torch.zeros_like(labels)
        labels[inside], matched[inside] = self.match(torch.cat(list(anchors))[inside], gt_boxes)
        return labels, matched

    def inside(
        self, anchors: Sequence[Tensor], strides: Sequence[int], image_size: tuple[int, int]
    ) -> Tensor:
        """Return which anchors take part (R,), bool."""
        height, width = image_size
        parts = []
        for boxes, stride in zip(anchors, strides, strict=True):
            x1, y1, x2, y2 = boxes.unbind(dim=1)
            # The margin of a hundredth of a pixel absorbs the rounding of the anchors' centres.
            part = (x1 + x2) / 2 < self._cells_end(width, stride) - 0.01
            part &= (y1 + y2) / 2 < self._cells_end(height, stride) - 0.01
            if self.allowed_border >= 0:
                part &= self.convention.inside(boxes, image_size, self.allowed_border)
            parts.append(part)
        return torch.cat(parts)

    def _cells_end(self, side: int, stride: int) -> int:
        padded = math.ceil(side / self.pad_divisor) * self.pad_divisor
        return math.ceil(padded / stride) * stride

    def match(self, anchors: Tensor, gt_boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Match anchors (R, 4), all of which take part; return labels (R,) and index (R,).

        Ground truth is taken a few boxes at a time: what a box claims depends on all anchors but
        on no other box.
        """
        best = anchors.new_zeros(len(anchors))
        index = torch.zeros_like(best, dtype=torch.int64)
        claimed_by = torch.full_like(index, -1)
        at_once = max(1, self.pairs_at_once // max(1, len(anchors)))
        for start in range(0, len(gt_boxes) if len(anchors) else 0, at_once):
            iou = pairwise_iou(Boxes(gt_boxes[start : start + at_once]), Boxes(anchors))
            value, row = iou.max(dim=0)
            index = torch.where(value > best, row + start, index)
            best = torch.maximum(best, value)
            claimed_by = torch.maximum(claimed_by, last_claim(iou, self.low_quality_iou, start))
        labels = torch.where(best >= self.positive_iou, 1, torch.where(best < self.negative_iou, 0, -1))
        labels = labels.masked_fill(claimed_by >= 0, 1)
        return labels, torch.where(claimed_by >= 0, claimed_by, index)
