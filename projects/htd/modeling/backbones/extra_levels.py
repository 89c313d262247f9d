"""The levels P6 and P7 above a feature pyramid of dense detectors."""

from __future__ import annotations

from functools import partial

from detectron2.layers import Conv2d, get_norm
from torch import Tensor, nn

from htd.layers.norms import norm_layer


class ExtraLevels(nn.Module):
    """P6 and P7, each a 3x3 convolution of the level below with a stride of two.

    Paper: Focal Loss for Dense Object Detection, section 4 (from C5, ReLU before P7),
    https://arxiv.org/abs/1708.02002; FCOS: Fully Convolutional One-Stage Object Detection, section 3.2 (from
    P5), https://arxiv.org/abs/1904.01355.

    The later published detectors take the pyramid's P5 and have no ReLU. Detectron2's ``LastLevelP6P7`` has
    the ReLU always, no norm and other initial values.

    Args:
        in_channels: channels of ``in_feature``.
        out_channels: channels of P6 and P7, those of the pyramid.
        in_feature: "p5" for the pyramid's output, "res5" for the map of the network below.
        relu: whether P7 is made of the ReLU of P6; P6 itself stays as it is.
        norm: "" (then the convolutions have a bias) or a name that ``norm_layer`` knows.

    Raises:
        ValueError: nobody knows the norm.
    """

    num_levels = 2

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        in_feature: str = "p5",
        relu: bool = False,
        norm: str = "",
    ):
        super().__init__()
        self.in_channels, self.in_feature = in_channels, in_feature
        halving = partial(Conv2d, kernel_size=3, stride=2, padding=1, bias=norm == "")
        self.p6 = halving(in_channels, out_channels, norm=get_norm(norm_layer(norm), out_channels))
        self.p7 = halving(out_channels, out_channels, norm=get_norm(norm_layer(norm), out_channels))
        self.between = nn.ReLU() if relu else nn.Identity()
        for conv in (self.p6, self.p7):
            nn.init.xavier_uniform_(conv.weight)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return [P6, P7] for x (N, C, H, W): (N, C', ceil(H / 2), ceil(W / 2)), and that halved again."""
        p6 = self.p6(x)
        return [p6, self.p7(self.between(p6))]
