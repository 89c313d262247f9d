"""The mask head, and how several of them pass on what they have found.

Symbols: P RoIs, K foreground classes, C channels, S side of the pooled map; a mask has 2S x 2S cells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def init_conv(layer: nn.Module) -> nn.Module:
    """Draw the weights of a convolution before a ReLU (Kaiming normal, fan-out) and set the bias to zero."""
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    return layer


class ConvMaskHead(nn.Module):
    """Convolutions, a transposed convolution that doubles the resolution, and one mask a class.

    Paper: Mask R-CNN, section 3, the head for FPN.

    Args:
        num_classes: K.
        channels: C.
        num_convs: 3x3 convolutions with ReLU.
    """

    def __init__(self, *, num_classes: int, channels: int = 256, num_convs: int = 4):
        super().__init__()
        self.convs = nn.ModuleList(
            init_conv(nn.Conv2d(channels, channels, 3, padding=1)) for _ in range(num_convs)
        )
        self.deconv = init_conv(nn.ConvTranspose2d(channels, channels, 2, stride=2))
        self.predictor = init_conv(nn.Conv2d(channels, num_classes, 1))

    def extract(self, x: Tensor) -> Tensor:
        """Map RoI features (P, C, S, S) to the features that the masks are predicted from, of equal shape."""
        for conv in self.convs:
            x = F.relu(conv(x))
        return x

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits (P, K, 2S, 2S) of all classes."""
        return self.predictor(F.relu(self.deconv(features)))

    def predict(self, features: Tensor, classes: Tensor) -> Tensor:
        """Return the logits (P, 2S, 2S) of one class (P,) each, without computing the others."""
        x = F.relu(self.deconv(features))
        weight = self.predictor.weight[classes, :, 0, 0]
        return torch.einsum("pchw,pc->phw", x, weight) + self.predictor.bias[classes, None, None]


class IndependentHeads(nn.Module):
    """Each mask head sees the RoI features alone (Cascade Mask R-CNN).

    Where heads are given here, they are the ``extract`` methods of :class:`ConvMaskHead`, in order.
    """

    def check(self, num_heads: int) -> None:
        """Accept any number of heads."""

    def last(self, heads: Sequence[Callable], x: Tensor) -> Tensor:
        """Return the features of the last of the heads for RoI features x; both (P, C, S, S)."""
        return heads[-1](x)

    def every(self, heads: Sequence[Callable], x: Tensor) -> list[Tensor]:
        """Return the features of each of the heads for RoI features x, all (P, C, S, S)."""
        return [head(x) for head in heads]
