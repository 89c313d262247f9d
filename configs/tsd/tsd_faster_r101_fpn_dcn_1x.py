"""TSD on Faster R-CNN R-101 FPN, deformable res3 to res5, 14 epochs. No published weights.

Published box AP 43.5 (paper, COCO val2017); not run here.
Run: train_net.py --config-file configs/tsd/tsd_faster_r101_fpn_dcn_1x.py --num-gpus 8.
"""

from .tsd_faster_r101_fpn_1x import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.deform_stages = ["res3", "res4", "res5"]
