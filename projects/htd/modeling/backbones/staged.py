"""Backbones that are a stem and four stages of a timm network: what they have in common."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from detectron2.layers import get_norm
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn

from htd.modeling.backbones.resnet import STAGES, freeze, stage_norms


class StagedBackbone(Backbone):
    """Stem and stages in a row, of which some outputs are returned.

    Args:
        stem: maps images to the input of the first stage, at stride 4.
        stages: modules by name, finest first; the first keeps the stride, each other doubles it.
        channels: output channels of each stage.
        out_features: names of the stages that the network returns.
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


def staged_backbone(
    stem: nn.Module,
    stages: Sequence[nn.Sequential],
    *,
    norm: str,
    freeze_at: int,
    out_features: Sequence[str],
) -> StagedBackbone:
    """Make a backbone of the parts of a classifier, with norms of another kind and frozen parts.

    Args:
        stem: as in :class:`StagedBackbone`.
        stages: bottleneck blocks of res2, res3, res4 and res5; those after ``out_features`` are left out.
        norm: what comes in the place of the batch norms, see :func:`htd.layers.norms.norm_layer`.
        freeze_at: how many of (stem, res2, ...) are not trained: their parameters take no gradient
            and their batch norms keep their statistics.
        out_features: names of the stages that the network returns.

    Raises:
        ValueError: an unknown norm.
    """
    last = max(STAGES.index(name) for name in out_features)
    by_name = dict(zip(STAGES[: last + 1], stages, strict=False))
    parts = [stem, *by_name.values()]
    for part, kind in zip(parts, stage_norms(norm, freeze_at), strict=False):
        _exchange_norms(part, kind)
    freeze(parts[:freeze_at])
    channels = [stage[-1].conv3.out_channels for stage in by_name.values()]
    return StagedBackbone(stem=stem, stages=by_name, channels=channels, out_features=out_features)


def timm_models(module: str, network: str) -> ModuleType:
    """Return a module of ``timm.models``; it is looked for late, since it takes a second to import.

    Args:
        module: its name.
        network: what is built from it, for the message.

    Raises:
        ValueError: timm is not installed, or cannot be imported.
    """
    try:
        return import_module(f"timm.models.{module}")
    except ImportError as error:
        raise ValueError(f"{network} is built from timm ({error}); pip install 'timm>=1.0,<2'") from error


def _exchange_norms(module: nn.Module, norm) -> None:
    """Put fresh norms of another kind in the place of all batch norms below ``module``."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, get_norm(norm, child.num_features) or nn.Identity())
