"""What the images of a training batch are known to show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from detectron2.structures import Instances
from torch import Tensor


@dataclass(frozen=True)
class GroundTruth:
    """Ground truth of a batch of N images of padded size H x W, in pixels of the resized input.

    Attributes:
        instances: N items with ``gt_boxes``, ``gt_classes`` and, where masks are learnt, ``gt_masks``.
        sem_seg: (N, H, W) int64, the class of every pixel, or None where there are no semantic maps.
    """

    instances: Sequence[Instances]
    sem_seg: Tensor | None = None
