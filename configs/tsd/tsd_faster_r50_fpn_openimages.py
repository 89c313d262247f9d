"""TSD on Faster R-CNN R-50 FPN, OpenImages Challenge 2019, 12 epochs.

Published AP50 72.2 (OpenImages validation); not run here.
Run: train_net.py --config-file configs/tsd/tsd_faster_r50_fpn_openimages.py --num-gpus 8.
"""

from ..baselines.faster_rcnn_r50_fpn_openimages import dataloader, lr_multiplier, optimizer, train
from ..common.models.open_images import for_open_images
from ..common.models.tsd_faster_legacy import model

for_open_images(model)
