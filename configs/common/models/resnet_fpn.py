"""ResNet-50 with the feature pyramid of the two-stage detectors, as published."""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

import htd.checkpoint.imagenet  # noqa: F401  (makes imagenet:// known to Detectron2's own script, too)
from htd.modeling.backbones import XavierFPN, build_resnet

backbone = L(XavierFPN)(
    bottom_up=L(build_resnet)(
        depth=50,
        groups=1,
        width_per_group=64,
        stem_channels=64,
        norm="FixedBN",
        freeze_at=2,
        deform_stages=[],
        modulated=False,
        offset_groups=1,
        out_features=["res2", "res3", "res4", "res5"],
    ),
    in_features="${.bottom_up.out_features}",
    out_channels=256,
    norm="",
    top_block=L(LastLevelMaxPool)(),
)
