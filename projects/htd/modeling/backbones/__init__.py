"""Backbones of the published detectors, on Detectron2's own blocks."""

from htd.modeling.backbones.deformable import DeformableBottleneckBlock
from htd.modeling.backbones.fpn import XavierFPN
from htd.modeling.backbones.resnet import build_resnet

__all__ = ["DeformableBottleneckBlock", "XavierFPN", "build_resnet"]
