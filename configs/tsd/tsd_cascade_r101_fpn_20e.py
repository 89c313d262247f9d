"""TSD on Cascade R-CNN R-101 FPN, 21 epochs. Published box AP 42.9 (COCO val2017); not run here.

Run: train_net.py --config-file configs/tsd/tsd_cascade_r101_fpn_20e.py --num-gpus 8.
"""

from .tsd_cascade_r50_fpn_20e import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.depth = 101
train.init_checkpoint = "imagenet://torchvision/resnet101"
