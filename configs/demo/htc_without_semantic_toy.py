"""HTC without semantics with narrow parts on the toy data: not run to its end here.

Run: train_net.py --config-file configs/demo/htc_without_semantic_toy.py,
after tools/make_toy_data.py --output datasets/toy.
"""

from ..common.data.toy_masks import dataloader
from ..common.models.htc_without_semantic import model
from ..common.models.narrow import narrow_cascade, narrow_masks
from .htd_toy import lr_multiplier, optimizer, train

narrow_cascade(model)
narrow_masks(model)
train.output_dir = "output/htc_without_semantic_toy"
