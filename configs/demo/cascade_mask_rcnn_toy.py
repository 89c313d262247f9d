"""Cascade Mask R-CNN with narrow parts on the toy data: not run to its end here.

Run: train_net.py --config-file configs/demo/cascade_mask_rcnn_toy.py,
after tools/make_toy_data.py --output datasets/toy.
"""

from ..common.data.toy_masks import dataloader
from ..common.models.cascade_mask_rcnn import model
from ..common.models.narrow import narrow_cascade, narrow_masks
from .htd_toy import lr_multiplier, optimizer, train

narrow_cascade(model)
narrow_masks(model)
train.output_dir = "output/cascade_mask_rcnn_toy"
