"""ResNet and ResNeXt as the published detectors build them.

Paper: Deep Residual Learning for Image Recognition, table 1, https://arxiv.org/abs/1512.03385; Aggregated
Residual Transformations for Deep Neural Networks, table 1, https://arxiv.org/abs/1611.05431.

Stages are named res2 ... res5 (strides 4, 8, 16, 32).
"""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock, ResNet
from torch import nn

from htd.layers.norms import norm_layer
from htd.modeling.backbones.deformable import DeformableBottleneckBlock

STAGES = ("res2", "res3", "res4", "res5")
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
BASIC_DEPTHS = (18, 34)


@BACKBONE_REGISTRY.register()
def build_resnet(
    *,
    depth: int,
    groups: int = 1,
    width_per_group: int = 64,
    stem_channels: int = 64,
    num_blocks: Sequence[int] | None = None,
    norm: str = "FixedBN",
    freeze_at: int = 2,
    deform_stages: Sequence[str] = (),
    modulated: bool = False,
    offset_groups: int = 1,
    out_features: Sequence[str] = STAGES,
) -> ResNet:
    """Build a ResNet or ResNeXt with the stride in the 3x3 convolution.

    Args:
        depth: 18, 34 (basic blocks), 50, 101 or 152 (bottleneck blocks).
        groups: groups of the 3x3 convolutions; 32 or 64 for ResNeXt.
        width_per_group: channels a group in res2, doubled from stage to stage; 4 for "32x4d".
        stem_channels: output of the stem; res2 has as many channels (basic) or four times as many.
        num_blocks: blocks of each stage; those of ``depth`` if None.
        norm: see :func:`htd.layers.norms.norm_layer`.
        freeze_at: how many of (stem, res2, ...) are not trained: their parameters take no gradient
            and their batch norms keep their statistics.
        deform_stages: stages whose 3x3 convolutions are all deformable, such as ["res4", "res5"].
        modulated: version 2 of deformable convolution instead of version 1.
        offset_groups: groups of channels of a deformable convolution with offsets of their own.
        out_features: stages that the network returns.

    Returns:
        Detectron2's ``ResNet``; parameters have Detectron2's names.

    Raises:
        ValueError: an unknown depth, norm or stage, deformable basic blocks, or offset groups that do not
            divide the channels.
    """
    _check(depth, num_blocks, deform_stages)
    basic = depth in BASIC_DEPTHS
    norms = stage_norms(norm, freeze_at)
    stem = BasicStem(out_channels=stem_channels, norm=norms[0])
    in_channels, stages = stem_channels, []
    for i, (name, count) in enumerate(zip(STAGES, num_blocks or BLOCKS[depth], strict=True)):
        block = {"block_class": BasicBlock}
        if not basic:
            block = _bottleneck(groups, width_per_group * 2**i)
        if name in deform_stages:
            block = _deformable(block, name, modulated=modulated, offset_groups=offset_groups)
        out_channels = stem_channels * 2**i * (1 if basic else 4)
        stages.append(
            ResNet.make_stage(
                **block,
                num_blocks=count,
                stride_per_block=[1 if i == 0 else 2] + [1] * (count - 1),
                in_channels=in_channels,
                out_channels=out_channels,
                norm=norms[i + 1],
            )
        )
        in_channels = out_channels
    model = ResNet(stem, stages, out_features=list(out_features))
    freeze([model.stem, *model.stages][:freeze_at])
    return model


def freeze(modules: Sequence[nn.Module]) -> None:
    """Stop the training of parameters.

    ``ResNet.freeze`` would also exchange the batch norms for another class, whose entries in the
    state dict depend on the version of Detectron2.
    """
    for module in modules:
        module.requires_grad_(False)


def stage_norms(norm: str, freeze_at: int) -> list:
    """Return the norms of stem and stages; frozen batch norms keep their statistics as well.

    Args:
        norm: see :func:`htd.layers.norms.norm_layer`.
        freeze_at: how many of (stem, res2, ...) are not trained.
    """
    frozen = norm_layer("FixedBN" if norm in ("BN", "SyncBN") else norm)
    return [frozen if i < freeze_at else norm_layer(norm) for i in range(1 + len(STAGES))]


def _bottleneck(groups: int, width_per_group: int) -> dict:
    channels = groups * width_per_group
    return {"block_class": BottleneckBlock, "bottleneck_channels": channels, "num_groups": groups}


def _deformable(block: dict, stage: str, *, modulated: bool, offset_groups: int) -> dict:
    """Return the settings of a deformable block in place of an ordinary bottleneck block."""
    channels = block["bottleneck_channels"]
    if offset_groups < 1 or channels % offset_groups:
        raise ValueError(f"offset_groups={offset_groups} does not divide the {channels} channels of {stage}")
    kind = {"block_class": DeformableBottleneckBlock, "modulated": modulated, "offset_groups": offset_groups}
    return {**block, **kind}


def _check(depth: int, num_blocks: Sequence[int] | None, deform_stages: Sequence[str]) -> None:
    if depth not in BLOCKS:
        raise ValueError(f"no ResNet of depth {depth}; choose one of {', '.join(map(str, BLOCKS))}")
    check_blocks(num_blocks or BLOCKS[depth])
    check_stages("deform_stages", deform_stages)
    if deform_stages and depth in BASIC_DEPTHS:
        raise ValueError(f"deform_stages needs bottleneck blocks; ResNet-{depth} has basic ones")


def check_blocks(num_blocks: Sequence[int]) -> None:
    """Check that there is one number of blocks for each stage.

    Raises:
        ValueError: there is not.
    """
    if len(num_blocks) != len(STAGES):
        raise ValueError(f"num_blocks has {len(num_blocks)} numbers; it has to have {len(STAGES)}")


def check_stages(setting: str, names: Sequence[str]) -> None:
    """Check the names of stages that the argument ``setting`` gives.

    Raises:
        ValueError: there is no stage of that name.
    """
    unknown = sorted(set(names) - set(STAGES))
    if unknown:
        raise ValueError(f"{setting} names {', '.join(unknown)}; the stages are {', '.join(STAGES)}")
