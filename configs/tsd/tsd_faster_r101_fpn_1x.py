"""TSD on Faster R-CNN R-101 FPN, 14 epochs. Published box AP 42.3 (COCO val2017); not run here.

Run: train_net.py --config-file configs/tsd/tsd_faster_r101_fpn_1x.py --num-gpus 8.
"""

from .tsd_faster_r50_fpn_1x import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.depth = 101
train.init_checkpoint = "imagenet://torchvision/resnet101"
