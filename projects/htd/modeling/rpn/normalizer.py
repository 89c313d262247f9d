"""What the losses of the region proposal network are divided by.

Each is called with the labels (N, R) of the batch's anchors after sampling (1 positive,
0 negative, -1 not used) and returns a tensor or a number of at least 1.
"""

from __future__ import annotations

from torch import Tensor


class SampledAnchors:
    """The number of anchors really sampled, as in the published detectors.

    In each image positives and negatives count as ``least_each`` at least; an image none of whose
    anchors was sampled (it is too small for any) does not count at all.

    Args:
        least_each: what an image without positives, or without negatives, counts in their place.
    """

    def __init__(self, *, least_each: int = 1):
        self.least_each = least_each

    def __call__(self, labels: Tensor) -> Tensor:
        """Return the count for labels (N, R), a scalar of int64; at least 1."""
        positive = (labels == 1).sum(dim=1)
        negative = (labels == 0).sum(dim=1)
        count = positive.clamp(min=self.least_each) + negative.clamp(min=self.least_each)
        return (count * (positive + negative > 0)).sum().clamp(min=1)


class AnchorBudget:
    """The number of anchors that may be sampled, as in Detectron2.

    Args:
        anchors_per_image: the sample size of an image.
    """

    def __init__(self, *, anchors_per_image: int = 256):
        self.anchors_per_image = anchors_per_image

    def __call__(self, labels: Tensor) -> int:
        """Return the budget of N images, whatever their labels (N, R) are; at least 1."""
        return max(1, self.anchors_per_image * len(labels))
