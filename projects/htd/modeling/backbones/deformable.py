"""Deformable 3x3 convolutions in the place of ordinary ones, in plain and in modulated form."""

from __future__ import annotations

import torch.nn.functional as F
from detectron2.layers import Conv2d
from detectron2.modeling.backbone.resnet import BottleneckBlock
from torch import Tensor, nn

from htd.layers import DeformConv2d


class DeformableBottleneckBlock(BottleneckBlock):
    """``BottleneckBlock`` whose ``conv2`` samples at positions that ``conv2_offset`` predicts.

    Paper: Deformable Convolutional Networks, section 2.1, https://arxiv.org/abs/1703.06211; modulated:
    Deformable ConvNets v2, section 3.2, https://arxiv.org/abs/1811.11168.

    Names are those of Detectron2's ``DeformBottleneckBlock``, which needs compiled
    operators and cannot be trained on a CPU. ``conv2_offset`` starts at zero: the plain form then
    equals the ordinary block, the modulated one halves what ``conv2`` gives (its mask is 0.5).

    Args:
        in_channels, out_channels, block: as in ``BottleneckBlock``.
        modulated: predict a weight for each sample as well (v2).
        offset_groups: groups of channels with offsets (and weights) of their own; divides the channels
            of ``conv2``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        modulated: bool = False,
        offset_groups: int = 1,
        **block,
    ):
        super().__init__(in_channels, out_channels, **block)
        plain = self.conv2
        self.conv2 = DeformConv2d(**_settings(plain))
        self.conv2.weight = plain.weight
        self.conv2_offset = _zero_conv(plain, offset_groups * (3 if modulated else 2))
        self.split = _offset_and_mask if modulated else _offset_only

    def forward(self, x: Tensor) -> Tensor:
        """Map x (N, C, H, W) to (N, C', H / stride, W / stride)."""
        out = F.relu_(self.conv1(x))
        offset, mask = self.split(self.conv2_offset(out))
        out = F.relu_(self.conv2(out, offset, mask))
        out = self.conv3(out)
        out += x if self.shortcut is None else self.shortcut(x)
        return F.relu_(out)


class OffsetPredictingConv2d(DeformConv2d):
    """Deformable convolution that predicts its own offsets, so that any block or tower can call it.

    Paper: Deformable Convolutional Networks, section 2.1, https://arxiv.org/abs/1703.06211; modulated:
    Deformable ConvNets v2, section 3.2, https://arxiv.org/abs/1811.11168.

    The predictor, ``offset``, starts at zero: the plain form then equals ``ordinary``, whose
    parameters, norm and activation it takes over; the modulated one halves what its weight gives.

    Args:
        ordinary: convolution in whose place this one comes.
        modulated, offset_groups: as in :class:`DeformableBottleneckBlock`; the groups divide the channels of
            the input.
    """

    def __init__(self, ordinary: nn.Conv2d, *, modulated: bool = False, offset_groups: int = 1):
        super().__init__(**_settings(ordinary))
        self.weight, self.bias = ordinary.weight, ordinary.bias
        self.offset = _zero_conv(ordinary, offset_groups * (3 if modulated else 2))
        self.split = _offset_and_mask if modulated else _offset_only

    def forward(self, x: Tensor) -> Tensor:
        """Map x (N, C, H, W) to (N, C', H', W') as the ordinary convolution."""
        offset, mask = self.split(self.offset(x))
        return super().forward(x, offset, mask)


def _settings(conv: nn.Conv2d) -> dict:
    """Return the arguments of a deformable convolution of the geometry, norm and activation of ``conv``.

    A convolution of another library than Detectron2 has neither norm nor activation.
    """
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
    beside = {name: getattr(conv, name, None) for name in ("norm", "activation")}
    return {name: getattr(conv, name) for name in names} | beside


def _zero_conv(conv: nn.Conv2d, values: int) -> Conv2d:
    """Return a convolution of the geometry of ``conv`` that gives ``values`` zeros for each of its taps."""
    geometry = {"stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation}
    predictor = Conv2d(conv.in_channels, values * conv.weight[0, 0].numel(), conv.kernel_size, **geometry)
    nn.init.zeros_(predictor.weight)
    nn.init.zeros_(predictor.bias)
    return predictor


def _offset_only(prediction: Tensor) -> tuple[Tensor, None]:
    return prediction, None


def _offset_and_mask(prediction: Tensor) -> tuple[Tensor, Tensor]:
    """Split (N, 3S, H, W) into 2S offsets, (y, x) for each of S samples, and S weights in (0, 1).

    The samples of an offset group follow each other.
    """
    offset_y_x, mask = prediction.split([prediction.shape[1] // 3 * 2, prediction.shape[1] // 3], dim=1)
    return offset_y_x, mask.sigmoid()
