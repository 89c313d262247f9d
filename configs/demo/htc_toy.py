"""HTC with narrow parts on the toy data and stuff maps: box AP 63.4, mask AP 56.3 at strength 0.5, seed 0.

Run: train_net.py --config-file configs/demo/htc_toy.py, after tools/make_toy_data.py --output datasets/toy.
"""

from ..common.data.toy_stuff import dataloader
from ..common.models.htc import model
from ..common.models.narrow import narrow_cascade, narrow_masks
from .htd_toy import lr_multiplier, optimizer, train

narrow_cascade(model)
narrow_masks(model)
train.output_dir = "output/htc_toy"
