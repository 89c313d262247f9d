"""TSD on Cascade R-CNN of two stages, legacy conventions, narrow parts, toy data: not run to its end here.

Run: train_net.py --config-file configs/demo/tsd_cascade_toy.py,
after tools/make_toy_data.py --output datasets/toy.
"""

from ..common.data.toy_inclusive import dataloader
from ..common.models.narrow import narrow_cascade
from ..common.models.tsd_cascade_legacy import model
from .htd_toy import lr_multiplier, optimizer, train

model.roi_heads.stages = model.roi_heads.stages[:2]
narrow_cascade(model)
train.output_dir = "output/tsd_cascade_toy"
