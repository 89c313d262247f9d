"""The networks that predict where a task looks.

Symbols: R RoIs, D features of the offset trunk, S bins a side. Offsets are (x, y), positive to the right and
downwards; times the head's shift factor they are fractions of the RoI's width and height.
"""

from __future__ import annotations

from torch import Tensor, nn


def kaiming_weight(weight: Tensor) -> Tensor:
    """Draw a weight (D', D) in place from N(0, 1 / D), as published for all hidden layers of TSD."""
    return nn.init.kaiming_normal_(weight, nonlinearity="linear")


def hidden_layer(in_features: int, out_features: int) -> nn.Linear:
    """Return a layer drawn by :func:`kaiming_weight`, its bias zero."""
    layer = nn.Linear(in_features, out_features)
    kaiming_weight(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class PointShift(nn.Sequential):
    """One offset for each bin: where classification looks.

    Paper: TSD, section 3.2 (delta C).

    Args:
        in_features: D.
        resolution: S.

    Attributes:
        shifts: whether there are offsets.
    """

    shifts = True

    def __init__(self, *, in_features: int = 256, resolution: int = 7):
        super().__init__(
            hidden_layer(in_features, in_features),
            nn.ReLU(),
            hidden_layer(in_features, 2 * resolution**2),
        )
        self.resolution = resolution

    def offsets(self, hidden: Tensor) -> Tensor:
        """Map hidden (R, D) to offsets (R, 2, S, S)."""
        return self(hidden).float().unflatten(1, (2, self.resolution, self.resolution))


class BoxShift(nn.Sequential):
    """One offset for the whole box: where regression looks.

    Paper: TSD, section 3.2 (delta R).

    Args:
        in_features: D.

    Attributes:
        shifts: whether there are offsets.
    """

    shifts = True

    def __init__(self, *, in_features: int = 256):
        super().__init__(
            hidden_layer(in_features, in_features),
            nn.ReLU(),
            hidden_layer(in_features, 2),
        )

    def offsets(self, hidden: Tensor) -> Tensor:
        """Map hidden (R, D) to offsets (R, 2)."""
        return self(hidden).float()


class NoShift(nn.Module):
    """A task that looks at the RoI as it is: its tower works on the plain RoI features.

    Attributes:
        shifts: whether there are offsets.
    """

    shifts = False

    def offsets(self, hidden: Tensor | None) -> None:
        """Return None, for there are no offsets."""
