"""TOOD R-101 FPN, 24 epochs, multi-scale training. Published box AP 46.1 (COCO val2017); not run here.

Run: train_net.py --config-file configs/tood/tood_r101_fpn_2x_ms.py --num-gpus 8.
"""

from .tood_r50_fpn_2x_ms import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.depth = 101
train.init_checkpoint = "imagenet://torchvision/resnet101"
