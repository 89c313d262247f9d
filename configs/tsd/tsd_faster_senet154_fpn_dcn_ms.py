"""TSD on Faster R-CNN SENet-154 FPN, deformable, 34 epochs, multi-scale training and test.

Follows the paper only, there are no published weights. Published box AP 51.2 (paper, COCO test-dev); not run
here. The paper says neither how long nor at which sizes it was trained; those are of the X-101-64x4d.
"""

from detectron2.config import LazyCall as L

from htd.modeling.backbones import build_senet154

from .tsd_faster_x101_64x4d_fpn_dcn_ms import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    test_time_augmentation,
    train,
)

model.backbone.bottom_up = L(build_senet154)(
    norm="FixedBN",
    freeze_at=2,
    deform_stages=["res3", "res4", "res5"],
    out_features=["res2", "res3", "res4", "res5"],
)
train.init_checkpoint = "imagenet://timm/senet154"
