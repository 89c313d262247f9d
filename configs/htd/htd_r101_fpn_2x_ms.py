"""HTD R-101 FPN, 24 epochs, multi-scale training, Soft-NMS. No published AP; not run here.

Run: train_net.py --config-file configs/htd/htd_r101_fpn_2x_ms.py --num-gpus 6.
"""

from .htd_r101_fpn_2x import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.mapper.augmentations[0].update(
    short_edge_length=[400, 1400], max_size=1600, sample_style="range"
)
