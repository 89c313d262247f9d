"""Which anchors of a batch an image would have if it were alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def within_padding(
    anchors: Sequence[Tensor], strides: Sequence[int], image_size: tuple[int, int], pad_divisor: int
) -> Tensor:
    """Return which anchors are centred on cells of the image or of its own padding.

    In a batch with a larger image there are cells beyond; the published detectors leave their anchors out.

    Args:
        anchors: L tensors (R_l, 4), XYXY in pixels of the resized input, centred on their cells.
        strides: pixels a cell of each level.
        image_size: (height, width) without padding.
        pad_divisor: an image's own sides are padded to multiples of this.

    Returns:
        (R,) bool, for the R anchors of all levels.
    """
    ends = [math.ceil(side / pad_divisor) * pad_divisor for side in image_size]
    parts = []
    for boxes, stride in zip(anchors, strides, strict=True):
        x1, y1, x2, y2 = boxes.unbind(dim=1)
        # The margin of a hundredth of a pixel absorbs the rounding of the anchors' centres.
        bottom, right = (math.ceil(end / stride) * stride - 0.01 for end in ends)
        parts.append(((x1 + x2) / 2 < right) & ((y1 + y2) / 2 < bottom))
    return torch.cat(parts)
