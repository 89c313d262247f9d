"""HTC for boxes only with narrow parts on the toy data: not run to its end here.

Run: train_net.py --config-file configs/demo/htc_box_toy.py,
after tools/make_toy_data.py --output datasets/toy.
"""

from ..common.models.htc_box import model
from ..common.models.narrow import narrow_cascade
from .htd_toy import dataloader, lr_multiplier, optimizer, train

narrow_cascade(model)
train.output_dir = "output/htc_box_toy"
