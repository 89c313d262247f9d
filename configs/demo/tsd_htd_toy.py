"""HTD whose common stage is TSD's, with narrow parts on the toy data: not run to its end here.

Run: train_net.py --config-file configs/demo/tsd_htd_toy.py,
after tools/make_toy_data.py --output datasets/toy.
"""

from ..common.models.narrow import narrow_htd
from ..common.models.tsd_htd import model
from .htd_toy import dataloader, lr_multiplier, optimizer, train

narrow_htd(model)
train.output_dir = "output/tsd_htd_toy"
