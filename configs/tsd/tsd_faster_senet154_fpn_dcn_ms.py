"""TSD on Faster R-CNN SENet-154 FPN, deformable, 34 epochs, multi-scale training and test.

Published box AP 51.2 (paper, COCO test-dev); not run here. The paper gives neither length nor image sizes:
both are those of the X-101-64x4d model.
Run: train_net.py --config-file configs/tsd/tsd_faster_senet154_fpn_dcn_ms.py --num-gpus 8.
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
