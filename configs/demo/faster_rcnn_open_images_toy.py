"""Narrow Faster R-CNN on toy data in OpenImages' format, class-aware: AP50 79.3 at strength 0.5, seed 0.

Run: train_net.py --config-file configs/demo/faster_rcnn_open_images_toy.py,
after tools/make_toy_data.py --open-images --output datasets/toy.
"""

from ..common.data.openimages_toy import dataloader
from ..common.models.faster_rcnn import model
from ..common.models.narrow import narrow_cascade
from .htd_toy import lr_multiplier, optimizer, train

narrow_cascade(model)
# The six drawn classes and two above them.
model.roi_heads.num_classes = 8
train.update(output_dir="output/faster_rcnn_open_images_toy", best_metric="bbox/AP50")
