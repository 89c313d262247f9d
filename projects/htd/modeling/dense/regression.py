"""What becomes of the output of a box predictor before it is decoded.

Each rule is called with the output (N, D, H, W) of one level, at least float32, and the level's learned
scalar, None where a head has none. Rules with the attribute ``scales`` need one.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

BoxRule = Callable[[Tensor, Tensor | None], Tensor]

# More than any image has: e^8 = 2981 cells, e^12 = 162755 pixels.
LARGEST_IN_CELLS, LARGEST_IN_PIXELS = 8.0, 12.0


def bounded_exp(x: Tensor, largest: float) -> Tensor:
    """Return exp(x) up to ``largest``, and beyond it the tangent there: nothing overflows, gradients neither.

    Args:
        x: logarithms of distances, in any unit.
        largest: logarithm of a distance that no object of an image has in this unit.
    """
    within = x.clamp(max=largest)
    return within.exp() * (1 + (x - within))


class Unscaled:
    """Predictions as they are."""

    scales = False

    def __call__(self, x: Tensor, scale: Tensor | None) -> Tensor:
        """Return x (N, D, H, W)."""
        return x


class Scaled:
    """Predictions times the level's scalar (ATSS, GFL)."""

    scales = True

    def __call__(self, x: Tensor, scale: Tensor) -> Tensor:
        """Return scale * x (N, D, H, W)."""
        return scale * x


class ExpOfScaled:
    """Distances as the exponential of scaled predictions (FCOS, section 3.1), in pixels.

    Args:
        largest: see :func:`bounded_exp`; of distances in pixels.
    """

    scales = True

    def __init__(self, *, largest: float = LARGEST_IN_PIXELS):
        self.largest = largest

    def __call__(self, x: Tensor, scale: Tensor) -> Tensor:
        """Return exp(scale * x) (N, D, H, W), in pixels."""
        return bounded_exp(scale * x, self.largest)


class ScaledExp:
    """Distances as the scaled exponential of predictions (TOOD's published implementation), in cells.

    Of the scale only the size counts: it begins as 1, but a high rate can carry it below 0, where all boxes
    would be inside out and the published loss falls without end.

    Args:
        largest: see :func:`bounded_exp`; of distances in cells, before they are scaled.
    """

    scales = True

    def __init__(self, *, largest: float = LARGEST_IN_CELLS):
        self.largest = largest

    def __call__(self, x: Tensor, scale: Tensor) -> Tensor:
        """Return abs(scale) * exp(x) (N, D, H, W), in cells."""
        return scale.abs() * bounded_exp(x, self.largest)
