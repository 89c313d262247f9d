"""ATSS with narrow parts on the toy data: box AP 38.9 at strength 0.5, seed 0, after 2000 iterations.

Run: train_net.py --config-file configs/demo/atss_toy.py, after tools/make_toy_data.py --output datasets/toy.
"""

from ..common.models.atss import model
from ..common.models.narrow import narrow_dense
from .htd_toy import dataloader, lr_multiplier, optimizer, train

# Anchors of 64 pixels, some toy objects' size, then lie at stride 4, where RoI heads read these objects, too.
narrow_dense(model, [4, 8, 16, 32], scale=2)
# Convolutions learn the classes later than the fully connected layers of RoI heads.
train.update(output_dir="output/atss_toy", max_iter=2000, eval_period=1000)
