"""TOOD R-50 FPN, anchor-based, 12 epochs. Published box AP 42.4 (COCO val2017); not run here.

Run: train_net.py --config-file configs/tood/tood_r50_fpn_anchor_based_1x.py --num-gpus 8.
"""

from detectron2.config import LazyCall as L

from htd.modeling.dense import DeltaDecoder, Scaled

from ..common.models.dense import box_coding
from .tood_r50_fpn_1x import dataloader, lr_multiplier, model, optimizer, train

model.head.predictors.box_rule = L(Scaled)()
model.decoder.decoder = L(DeltaDecoder)(transform=box_coding((0.1, 0.1, 0.2, 0.2)))
