"""FCOS with narrow parts on the toy data: not run to its end here.

Run: train_net.py --config-file configs/demo/fcos_toy.py, after tools/make_toy_data.py --output datasets/toy.
"""

from ..common.models.fcos import model
from ..common.models.narrow import narrow_dense
from .atss_toy import dataloader, lr_multiplier, optimizer, train

narrow_dense(model, [4, 8, 16, 32], scale=2)
train.output_dir = "output/fcos_toy"
