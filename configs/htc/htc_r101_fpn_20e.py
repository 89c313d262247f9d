"""HTC R-101 FPN, 20 epochs. Published box AP 44.8, mask AP 39.6 (COCO val2017); not run here.

Run: train_net.py --config-file configs/htc/htc_r101_fpn_20e.py --num-gpus 8.
"""

from .htc_r50_fpn_20e import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.depth = 101
train.init_checkpoint = "imagenet://torchvision/resnet101"
