"""TSD on Faster R-CNN R-101 FPN, deformable convolutions in res3 to res5, 14 epochs.

Follows the paper only, there are no published weights. Published box AP 43.5 (paper, COCO val2017); not run
here.
"""

from .tsd_faster_r101_fpn_1x import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.deform_stages = ["res3", "res4", "res5"]
