"""SENet-154 as a backbone: timm's network, with trained or fixed norms and deformable convolutions.

Paper: Squeeze-and-Excitation Networks, section 6 (SENet-154) and appendix, https://arxiv.org/abs/1709.01507.

The definition is that of the package pretrained-models, which timm keeps: deep stem, max-pool without
padding, 64 groups, squeeze and excitation before the addition, 3x3 projections. Stages are named res2 ...
res5 (strides 4, 8, 16, 32).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from detectron2.modeling import BACKBONE_REGISTRY
from torch import nn

from htd.modeling.backbones.deformable import OffsetPredictingConv2d
from htd.modeling.backbones.resnet import STAGES, check_blocks, check_stages
from htd.modeling.backbones.staged import StagedBackbone, staged_backbone, timm_models

BLOCKS = (3, 8, 36, 3)


@BACKBONE_REGISTRY.register()
def build_senet154(
    *,
    num_blocks: Sequence[int] = BLOCKS,
    norm: str = "FixedBN",
    freeze_at: int = 2,
    deform_stages: Sequence[str] = (),
    out_features: Sequence[str] = STAGES,
) -> StagedBackbone:
    """Build a SENet-154.

    Args:
        num_blocks: blocks of each stage; other numbers than the default ones make a smaller relative.
        norm: see :func:`htd.layers.norms.norm_layer`.
        freeze_at: how many of (stem, res2, ...) are not trained: their parameters take no gradient
            and their batch norms keep their statistics.
        deform_stages: stages whose 3x3 convolutions are deformable (version 1), such as ["res4", "res5"];
            the one in a projection is not. No public definition has such stages; the form is ResNet's.
        out_features: stages that the network returns; later ones than these are not built.

    Returns:
        The network; inside a stage parameters have timm's names.

    Raises:
        ValueError: timm is not installed, or an unknown norm or stage.

    Note:
        The stem rounds an odd number of rows or columns down where a ResNet's rounds up. For images
        padded to a multiple of 32, as under a pyramid, the sizes are equal.
    """
    check_blocks(num_blocks)
    check_stages("deform_stages", deform_stages)
    check_stages("out_features", out_features)
    network = _timm_network(tuple(num_blocks))
    stem = nn.Sequential(OrderedDict([*network.layer0.named_children(), ("pool", network.pool0)]))
    stages = [network.layer1, network.layer2, network.layer3, network.layer4]
    for name, stage in zip(STAGES, stages, strict=True):
        for block in stage if name in deform_stages else ():
            block.conv2 = OffsetPredictingConv2d(block.conv2)
    return staged_backbone(stem, stages, norm=norm, freeze_at=freeze_at, out_features=out_features)


def _timm_network(num_blocks: tuple[int, ...]) -> nn.Module:
    """Return timm's network; its weights begin as Kaiming normal values over the fan-out."""
    senet = timm_models("senet", "SENet-154")
    return senet.SENet(
        senet.SEBottleneck,
        num_blocks,
        groups=64,
        reduction=16,
        inplanes=128,
        input_3x3=True,
        downsample_kernel_size=3,
        downsample_padding=1,
        num_classes=0,
    )
