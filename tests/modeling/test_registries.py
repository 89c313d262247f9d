"""What the package adds to Detectron2's registries."""

import pytest
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_HEADS_REGISTRY,
)

from htd.modeling.backbones import XavierFPN, build_resnet
from htd.modeling.cascade import StagedROIHeads
from htd.modeling.dense import OneStageDetector
from htd.modeling.rcnn import RescaleFirstRCNN
from htd.modeling.rpn import PublishedRPN


@pytest.mark.parametrize(
    ("registry", "entry"),
    [
        (BACKBONE_REGISTRY, build_resnet),
        (BACKBONE_REGISTRY, XavierFPN),
        (PROPOSAL_GENERATOR_REGISTRY, PublishedRPN),
        (ROI_HEADS_REGISTRY, StagedROIHeads),
        (META_ARCH_REGISTRY, RescaleFirstRCNN),
        (META_ARCH_REGISTRY, OneStageDetector),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_registered(registry, entry):
    assert registry.get(entry.__name__) is entry
