"""Backbones of the published detectors, on Detectron2's own blocks and those of timm."""

from htd.modeling.backbones.deformable import DeformableBottleneckBlock, OffsetPredictingConv2d
from htd.modeling.backbones.extra_levels import ExtraLevels
from htd.modeling.backbones.fpn import XavierFPN
from htd.modeling.backbones.res2net import build_res2net
from htd.modeling.backbones.resnet import build_resnet
from htd.modeling.backbones.senet import build_senet154

__all__ = [
    "DeformableBottleneckBlock",
    "ExtraLevels",
    "OffsetPredictingConv2d",
    "XavierFPN",
    "build_res2net",
    "build_resnet",
    "build_senet154",
]
