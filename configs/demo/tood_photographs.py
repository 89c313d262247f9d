"""TOOD with narrow parts for a handful of photographs, without augmentation: a check that it can learn them.

Give the data by --train-json, --train-images, --val-json and --val-images. On the eight photographs of
tests/overfit it reaches box AP 100.0 on what it was trained with, after its 300 iterations.
Run: train_net.py --config-file configs/demo/tood_photographs.py,
after tools/make_toy_data.py --output datasets/toy.
"""

from ..common.data.coco import dataloader
from ..common.models.narrow import narrow_dense
from ..common.models.tood import model
from ..common.photographs import small_pictures
from .htd_photographs import lr_multiplier, optimizer, train

small_pictures(dataloader)
narrow_dense(model, [4, 8, 16, 32, 64, 128])
model.criterion.switch_iter = train.max_iter // 3
train.output_dir = "output/tood_photographs"
