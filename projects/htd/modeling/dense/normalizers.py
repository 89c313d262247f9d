"""What the losses of dense detectors are divided by.

Each is called with the matched priors of a batch and returns the value of this process, a scalar; the losses
are divided by the mean over all processes, but at least by ``least``.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from htd.modeling.dense.matched import Matched
from htd.modeling.dense.weighting import Weighting


class Normalizer(Protocol):
    """What a term of a supervision needs.

    Attributes:
        least: lower limit of the mean over the processes.
    """

    least: float

    def __call__(self, matched: Matched) -> Tensor:
        """Return the value of this process, a scalar."""


class PositiveCount:
    """The number of priors with an object.

    Args:
        least_each_image: what an image with fewer of them counts (RetinaNet, ATSS, GFL: 1).
        extra_each_image: what each image counts in addition (FCOS: 1).
        least: lower limit of the mean over the processes.
    """

    def __init__(self, *, least_each_image: int = 0, extra_each_image: int = 0, least: float = 1.0):
        self.least_each_image = least_each_image
        self.extra_each_image = extra_each_image
        self.least = least

    def __call__(self, matched: Matched) -> Tensor:
        """Return the count, a scalar."""
        counts = matched.positive.sum(dim=1).clamp(min=self.least_each_image) + self.extra_each_image
        return counts.sum().to(matched.metric.dtype)


class WeightSum:
    """The sum of the weights of priors with an object.

    Args:
        weighting: see :mod:`htd.modeling.dense.weighting`.
        least: lower limit of the mean over the processes; 0: none, but a sum below 1e-20 counts as one.
    """

    def __init__(self, *, weighting: Weighting, least: float = 1.0):
        self.weighting = weighting
        self.least = least

    def __call__(self, matched: Matched) -> Tensor:
        """Return the sum, a scalar."""
        return (self.weighting(matched) * matched.positive).sum()
