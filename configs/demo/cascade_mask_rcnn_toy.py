"""Cascade Mask R-CNN with narrow parts on the toy data: not run to its end here."""

from ..common.data.toy_masks import dataloader
from ..common.models.cascade_mask_rcnn import model
from ..common.models.narrow import narrow_cascade, narrow_masks
from .htd_toy import lr_multiplier, optimizer, train

narrow_cascade(model)
narrow_masks(model)
train.output_dir = "output/cascade_mask_rcnn_toy"
