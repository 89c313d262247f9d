"""TOOD, anchor-based, with narrow parts on the toy data: not run to its end here.

Run: train_net.py --config-file configs/demo/tood_anchor_based_toy.py,
after tools/make_toy_data.py --output datasets/toy.
"""

from detectron2.config import LazyCall as L

from htd.modeling.dense import DeltaDecoder, Scaled

from ..common.models.dense import box_coding
from .tood_toy import dataloader, lr_multiplier, model, optimizer, train

model.head.predictors.box_rule = L(Scaled)()
model.decoder.decoder = L(DeltaDecoder)(transform=box_coding((0.1, 0.1, 0.2, 0.2)))
train.output_dir = "output/tood_anchor_based_toy"
