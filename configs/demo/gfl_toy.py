"""GFL with narrow parts on the toy data: not run to its end here.

Run: train_net.py --config-file configs/demo/gfl_toy.py, after tools/make_toy_data.py --output datasets/toy.
"""

from ..common.models.gfl import model
from ..common.models.narrow import narrow_dense
from .atss_toy import dataloader, lr_multiplier, optimizer, train

narrow_dense(model, [4, 8, 16, 32], scale=2)
train.output_dir = "output/gfl_toy"
