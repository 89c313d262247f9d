"""What becomes of the output of a box predictor before it is decoded.

Each rule is called with the output (N, D, H, W) of one level, at least float32, and the level's learned
scalar, None where a head has none.
"""

from __future__ import annotations

from torch import Tensor

# Beyond it the exponential goes on as its tangent: e^8 cells are more than any image has, and neither a value
# nor its gradient can overflow.
LARGEST_EXPONENT = 8.0


def bounded_exp(x: Tensor, largest: float = LARGEST_EXPONENT) -> Tensor:
    """Return exp(x) up to ``largest``, and beyond it the value of the tangent there."""
    within = x.clamp(max=largest)
    return within.exp() * (1 + (x - within))


class Unscaled:
    """Predictions as they are."""

    def __call__(self, x: Tensor, scale: Tensor | None) -> Tensor:
        """Return x."""
        return x


class Scaled:
    """Predictions times the level's scalar (ATSS, GFL)."""

    def __call__(self, x: Tensor, scale: Tensor) -> Tensor:
        """Return scale * x."""
        return scale * x


class ExpOfScaled:
    """Distances as the exponential of scaled predictions (FCOS, section 3.1), in pixels.

    Args:
        largest: see :func:`bounded_exp`.
    """

    def __init__(self, *, largest: float = LARGEST_EXPONENT):
        self.largest = largest

    def __call__(self, x: Tensor, scale: Tensor) -> Tensor:
        """Return exp(scale * x)."""
        return bounded_exp(scale * x, self.largest)


class ScaledExp:
    """Distances as the scaled exponential of predictions (TOOD's published implementation), in cells.

    Args:
        largest: see :func:`bounded_exp`.
    """

    def __init__(self, *, largest: float = LARGEST_EXPONENT):
        self.largest = largest

    def __call__(self, x: Tensor, scale: Tensor) -> Tensor:
        """Return scale * exp(x)."""
        return scale * bounded_exp(x, self.largest)
