"""Res2Net with deep stem and averaged shortcuts as a backbone, on timm's blocks.

Paper: Res2Net: A New Multi-scale Backbone Architecture, section 3.1, figure 2,
https://arxiv.org/abs/1904.01169.

The variant is the one that is published as "v1d" and as "v1b": a stem of three 3x3 convolutions, shortcuts
that average before they project. Stages are named res2 ... res5 (strides 4, 8, 16, 32).
"""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.modeling import BACKBONE_REGISTRY
from fvcore.nn.weight_init import c2_msra_fill
from torch import nn

from htd.modeling.backbones.deformable import OffsetPredictingConv2d
from htd.modeling.backbones.resnet import BASIC_DEPTHS, BLOCKS, STAGES, check_blocks, check_stages
from htd.modeling.backbones.staged import StagedBackbone, staged_backbone, timm_models


@BACKBONE_REGISTRY.register()
def build_res2net(
    *,
    depth: int = 101,
    base_width: int = 26,
    splits: int = 4,
    stem_channels: int = 64,
    num_blocks: Sequence[int] | None = None,
    norm: str = "FixedBN",
    freeze_at: int = 2,
    deform_stages: Sequence[str] = (),
    modulated: bool = False,
    out_features: Sequence[str] = STAGES,
) -> StagedBackbone:
    """Build a Res2Net such as Res2Net-101 26w x 4s.

    Args:
        depth: 50, 101 or 152.
        base_width: channels of a split in res2 if ``stem_channels`` is 64, doubled from stage to stage.
        splits: groups of channels into which a block splits its input; all but the last are convolved.
        stem_channels: output of the stem; res2 has four times as many.
        num_blocks: blocks of each stage; those of ``depth`` if None.
        norm: see :func:`htd.layers.norms.norm_layer`.
        freeze_at: how many of (stem, res2, ...) are not trained: their parameters take no gradient
            and their batch norms keep their statistics.
        deform_stages: stages whose 3x3 convolutions are all deformable, such as ["res4", "res5"]; each
            convolution of a block predicts offsets of its own.
        modulated: version 2 of deformable convolution instead of version 1.
        out_features: stages that the network returns; later ones than these are not built.

    Returns:
        The network; inside a stage parameters have timm's names, which are the published ones.

    Raises:
        ValueError: timm is not installed, an unknown depth, norm or stage, or splits without channels.
    """
    _check(depth, base_width, splits, stem_channels)
    check_blocks(num_blocks or BLOCKS[depth])
    check_stages("deform_stages", deform_stages)
    check_stages("out_features", out_features)
    stages = _stages(num_blocks or BLOCKS[depth], base_width, splits, stem_channels)
    stem = _stem(stem_channels)
    for convolution in nn.ModuleList([stem, *stages]).modules():
        if isinstance(convolution, nn.Conv2d):
            c2_msra_fill(convolution)
    for name, stage in zip(STAGES, stages, strict=True):
        for block in stage if name in deform_stages else ():
            block.convs = nn.ModuleList(
                OffsetPredictingConv2d(conv, modulated=modulated) for conv in block.convs
            )
    return staged_backbone(stem, stages, norm=norm, freeze_at=freeze_at, out_features=out_features)


def _stem(channels: int) -> nn.Sequential:
    """Return three 3x3 convolutions and a max-pool: stride 4."""
    layers, in_channels = [], 3
    for stride, out_channels in ((2, channels // 2), (1, channels // 2), (1, channels)):
        layers += [
            nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        ]
        in_channels = out_channels
    return nn.Sequential(*layers, nn.MaxPool2d(3, stride=2, padding=1))


def _stages(
    num_blocks: Sequence[int], base_width: int, splits: int, stem_channels: int
) -> list[nn.Sequential]:
    """Return the blocks of each stage.

    They are put together here because timm's ResNet takes the channels of its stages only in newer versions.
    """
    block_class = timm_models("res2net", "a Res2Net").Bottle2neck
    shortcut = timm_models("resnet", "a Res2Net").downsample_avg
    settings = {"base_width": base_width, "scale": splits, "norm_layer": nn.BatchNorm2d}
    in_channels, stages = stem_channels, []
    for i, count in enumerate(num_blocks):
        planes, stride = stem_channels * 2**i, 2 if i else 1
        out_channels = planes * block_class.expansion
        downsample = shortcut(in_channels, out_channels, 1, stride, norm_layer=nn.BatchNorm2d)
        first = block_class(in_channels, planes, stride, downsample, **settings)
        if stride == 1:
            # Published: the last split is averaged only where the stride is 2; timm does it in res2, too.
            first.pool = nn.Identity()
        others = [block_class(out_channels, planes, **settings) for _ in range(count - 1)]
        stages.append(nn.Sequential(first, *others))
        in_channels = out_channels
    return stages


def _check(depth: int, base_width: int, splits: int, stem_channels: int) -> None:
    depths = [known for known in BLOCKS if known not in BASIC_DEPTHS]
    if depth not in depths:
        raise ValueError(f"no Res2Net of depth {depth}; choose one of {', '.join(map(str, depths))}")
    if stem_channels < 2 or stem_channels % 2:
        raise ValueError(f"stem_channels of a Res2Net is {stem_channels}; give an even number from 2 on")
    if splits < 1 or stem_channels * base_width < 64:
        raise ValueError(
            f"splits={splits} of a Res2Net with base_width={base_width} have no channels; give at least one "
            f"split, and a base_width of at least {-(-64 // stem_channels)}"
        )
