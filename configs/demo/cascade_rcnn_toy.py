"""Cascade R-CNN (two stages, as HTD has) with narrow parts on the toy data, to compare HTD with."""

from ..common.models.cascade_rcnn import model
from ..common.models.narrow import narrow_cascade
from .htd_toy import dataloader, lr_multiplier, optimizer, train

model.roi_heads.stages = model.roi_heads.stages[:2]
narrow_cascade(model)
train.output_dir = "output/cascade_rcnn_toy"
