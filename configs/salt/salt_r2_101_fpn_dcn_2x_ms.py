"""SALT-Net Res2Net-101 (26w 4s) FPN, deformable res4 and res5, 24 epochs, multi-scale training.

Published box AP 50.7 (COCO val2017), probably this model's row; not run here.
Run: train_net.py --config-file configs/salt/salt_r2_101_fpn_dcn_2x_ms.py --num-gpus 8.
"""

from detectron2.config import LazyCall as L

from htd.modeling.backbones import build_res2net

from .salt_r50_fpn_2x_ms import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up = L(build_res2net)(
    depth=101,
    base_width=26,
    splits=4,
    norm="FixedBN",
    freeze_at=2,
    deform_stages=["res4", "res5"],
    modulated=False,
    out_features=["res3", "res4", "res5"],
)
train.init_checkpoint = "imagenet://mmdet/res2net101_v1d_26w_4s"
