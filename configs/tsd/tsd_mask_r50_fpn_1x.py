"""TSD on Mask R-CNN R-50 FPN, 14 epochs. Published box AP 41.2, mask AP 35.8 (val2017); not run here.

Run: train_net.py --config-file configs/tsd/tsd_mask_r50_fpn_1x.py --num-gpus 8.
"""

from ..common.data.coco_inclusive_masks import dataloader
from ..common.models.tsd_mask_legacy import model
from .tsd_faster_r50_fpn_1x import lr_multiplier, optimizer, train

dataloader.train.total_batch_size = train.reference_batch_size
