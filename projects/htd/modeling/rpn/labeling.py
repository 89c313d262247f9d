"""Which anchors an image's ground truth makes objects and background, by the published rule.

Symbols: L levels; R_l anchors of level l, R of all levels; G ground-truth boxes of an image.
Boxes are XYXY in pixels of the resized input.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from htd.layers import ContinuousBoxes, match_by_iou, within_padding


class AnchorLabeler:
    """Labels anchors, and only those that lie within the image take part in the matching.

    Paper: Faster R-CNN, section 3.1.2; the matching is :func:`htd.layers.match_by_iou`. Detectron2 matches
    all anchors and drops those beyond the image afterwards: an object whose best anchor is dropped then has
    none.

    Args:
        positive_iou, negative_iou, low_quality_iou: thresholds in [0, 1].
        allowed_border: pixels an anchor may reach beyond the image without padding; the far sides
            must stay below width (height) plus this. Negative: no such limit.
        pad_divisor: an image's sides are padded to multiples of this; anchors of cells beyond an
            image's own padding (in a batch with a larger image) never take part.
        convention: tests boxes against the border, see :mod:`htd.layers.boxes`; continuous if None.
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
        inside = within_padding(anchors, strides, image_size, self.pad_divisor)
        if self.allowed_border >= 0:
            boxes = torch.cat(list(anchors))
            inside &= self.convention.inside(boxes, image_size, self.allowed_border)
        return inside

    def match(self, anchors: Tensor, gt_boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Match anchors (R, 4), all of which take part; return labels (R,) and index (R,)."""
        return match_by_iou(
            anchors,
            gt_boxes,
            positive_iou=self.positive_iou,
            negative_iou=self.negative_iou,
            low_quality_iou=self.low_quality_iou,
            pairs_at_once=self.pairs_at_once,
        )
