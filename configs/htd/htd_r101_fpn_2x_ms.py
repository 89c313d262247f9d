"""HTD R-101 FPN, 24 epochs, training at short sides of 400 to 1400 pixels. No published AP; not run here."""

from .htd_r101_fpn_2x import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.mapper.augmentations[0].update(
    short_edge_length=[400, 1400], max_size=1600, sample_style="range"
)
