"""Layers that the towers of dense heads are made of."""

from __future__ import annotations

from detectron2.layers import Conv2d
from torch import nn

from htd.errors import UserError
from htd.modeling.backbones import OffsetPredictingConv2d


def tower_conv(
    in_channels: int,
    out_channels: int,
    *,
    num_groups: int | None = 32,
    deformable: bool = False,
    offset_groups: int = 4,
) -> nn.Module:
    """Return a 3x3 convolution, group norm and ReLU that keep the size of a map.

    Paper: FCOS, section 4; TOOD, section 3.1 (the published networks have ``deformable`` layers in the head).
    Weights begin as Normal(0, 0.01), biases and what predicts the offsets as zero.

    Args:
        in_channels, out_channels: of the convolution.
        num_groups: groups of the norm, which replaces the bias; None for a bias and no norm (RetinaNet).
        deformable: make it a modulated deformable convolution (version 2).
        offset_groups: its groups of channels with offsets and weights of their own.

    Returns:
        A module with the parameters ``weight``, ``norm.*`` or ``bias``, and, if deformable, ``offset.*``.

    Raises:
        UserError: the channels are not a multiple of the groups.
    """
    _check("num_groups", num_groups, out_channels)
    norm = None if num_groups is None else nn.GroupNorm(num_groups, out_channels)
    behind = {"norm": norm, "activation": nn.ReLU(inplace=True)}
    conv = Conv2d(in_channels, out_channels, 3, padding=1, bias=norm is None, **behind)
    nn.init.normal_(conv.weight, std=0.01)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    if not deformable:
        return conv
    _check("offset_groups", offset_groups, in_channels)
    return OffsetPredictingConv2d(conv, modulated=True, offset_groups=offset_groups)


def _check(name: str, groups: int | None, channels: int) -> None:
    if groups is not None and (groups < 1 or channels % groups):
        raise UserError(f"{name}={groups} does not divide the {channels} channels of the head's tower")
