"""SENet-154 as a backbone: timm's network, with trained or fixed norms and deformable convolutions.

Paper: Squeeze-and-Excitation Networks, section 6 (SENet-154) and appendix. The definition is that of the
package pretrained-models, which timm keeps: deep stem, max-pool without padding, 64 groups, squeeze and
excitation before the addition, 3x3 projections. Stages are named res2 ... res5 (strides 4, 8, 16, 32).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from detectron2.layers import get_norm
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn

from htd.errors import UserError
from htd.modeling.backbones.deformable import OffsetPredictingConv2d
from htd.modeling.backbones.resnet import STAGES, check_blocks, check_stages, freeze, stage_norms

BLOCKS = (3, 8, 36, 3)


class SENet(Backbone):
    """Stem and stages in a row, of which some outputs are returned.

    Args:
        stem: maps images to the input of the first stage, at stride 4.
        stages: modules by name, finest first; the first keeps the stride, each other doubles it.
        channels: output channels of each stage.
        out_features: names of the stages that the network returns.

    Note:
        The stem rounds an odd number of rows or columns down where a ResNet's rounds up. For images
        padded to a multiple of 32, as under a pyramid, the sizes are equal.
    """

    def __init__(
        self,
        *,
        stem: nn.Module,
        stages: dict[str, nn.Module],
        channels: Sequence[int],
        out_features: Sequence[str],
    ):
        super().__init__()
        self.stem = stem
        self.stage_names = tuple(stages)
        for name, stage in stages.items():
            self.add_module(name, stage)
        # What Detectron2's Backbone tells of its outputs.
        self._out_features = list(out_features)
        self._out_feature_channels = dict(zip(stages, channels, strict=True))
        self._out_feature_strides = {name: 4 * 2**i for i, name in enumerate(stages)}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the chosen maps (N, channels, H / stride, W / stride) of images (N, 3, H, W) by name."""
        found, x = {}, self.stem(x)
        for name in self.stage_names:
            x = found[name] = getattr(self, name)(x)
        return {name: found[name] for name in self._out_features}


@BACKBONE_REGISTRY.register()
def build_senet154(
    *,
    num_blocks: Sequence[int] = BLOCKS,
    norm: str = "FixedBN",
    freeze_at: int = 2,
    deform_stages: Sequence[str] = (),
    out_features: Sequence[str] = STAGES,
) -> SENet:
    """Build a SENet-154.

    Args:
        num_blocks: blocks of each stage; other numbers than the default ones make a smaller relative.
        norm: see :func:`htd.layers.batch_norm.norm_layer`.
        freeze_at: how many of (stem, res2, ...) are not trained: their parameters take no gradient
            and their batch norms keep their statistics.
        deform_stages: stages whose 3x3 convolutions are deformable (version 1), such as ["res4", "res5"];
            the one in a projection is not. No public definition has such stages; the form is ResNet's.
        out_features: stages that the network returns; later ones than these are not built.

    Returns:
        The network; inside a stage parameters have timm's names.

    Raises:
        UserError: timm is not installed, or an unknown norm or stage.
    """
    check_blocks(num_blocks)
    check_stages("deform_stages", deform_stages)
    check_stages("out_features", out_features)
    network = _timm_network(tuple(num_blocks))
    stem = nn.Sequential(OrderedDict([*network.layer0.named_children(), ("pool", network.pool0)]))
    last = max(STAGES.index(name) for name in out_features)
    stages = {name: getattr(network, f"layer{i + 1}") for i, name in enumerate(STAGES[: last + 1])}
    for part, kind in zip([stem, *stages.values()], stage_norms(norm, freeze_at), strict=False):
        _exchange_norms(part, kind)
    for name in stages.keys() & set(deform_stages):
        for block in stages[name]:
            block.conv2 = OffsetPredictingConv2d(block.conv2)
    freeze([stem, *stages.values()][:freeze_at])
    channels = [stage[-1].conv3.out_channels for stage in stages.values()]
    return SENet(stem=stem, stages=stages, channels=channels, out_features=out_features)


def _timm_network(num_blocks: tuple[int, ...]) -> nn.Module:
    """Return timm's network; its weights begin as Kaiming normal values over the fan-out."""
    try:
        from timm.models.senet import SEBottleneck, SENet  # takes a second, and no other backbone needs it
    except ImportError as error:
        raise UserError(f"SENet-154 is built from timm ({error}); pip install 'timm>=1.0,<2'") from error
    return SENet(
        SEBottleneck,
        num_blocks,
        groups=64,
        reduction=16,
        inplanes=128,
        input_3x3=True,
        downsample_kernel_size=3,
        downsample_padding=1,
        num_classes=0,
    )


def _exchange_norms(module: nn.Module, norm) -> None:
    """Put fresh norms of another kind in the place of all batch norms below ``module``."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, get_norm(norm, child.num_features) or nn.Identity())
