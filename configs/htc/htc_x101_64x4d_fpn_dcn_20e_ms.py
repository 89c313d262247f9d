"""HTC X-101-64x4d FPN, deformable res3 to res5, 20 epochs, multi-scale training.

Published box AP 50.4, mask AP 43.8 (COCO val2017); not run here.
Run: train_net.py --config-file configs/htc/htc_x101_64x4d_fpn_dcn_20e_ms.py --num-gpus 8.
"""

from .htc_x101_64x4d_fpn_20e import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.deform_stages = ["res3", "res4", "res5"]
dataloader.train.mapper.augmentations[0].update(
    short_edge_length=[400, 1400], max_size=1600, sample_style="range"
)
