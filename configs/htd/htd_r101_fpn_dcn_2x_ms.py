"""HTD R-101 FPN, deformable res3 to res5, 24 epochs, multi-scale training.

Published box AP 50.4 (COCO test-dev); not run here.
Run: train_net.py --config-file configs/htd/htd_r101_fpn_dcn_2x_ms.py --num-gpus 6.
"""

from .htd_r101_fpn_2x_ms import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.deform_stages = ["res3", "res4", "res5"]
