"""TSD on Faster R-CNN R-50 FPN, 14 epochs. Published box AP 40.9 (COCO val2017); not run here.

Boxes and pooling as in the published weights; for new training use ``tsd_faster_r50_fpn_1x_continuous``.
Run: train_net.py --config-file configs/tsd/tsd_faster_r50_fpn_1x.py --num-gpus 8.
"""

from ..common.data.coco_inclusive import dataloader
from ..common.models.tsd_faster_legacy import model
from ..common.optim import SGD as optimizer
from ..common.schedules import coco_iterations
from ..common.schedules import step as lr_multiplier
from ..common.train import train

# The published rule: a rate of 0.00125 an image of the batch, warm-up of about an epoch.
train.reference_batch_size = dataloader.train.total_batch_size = 32
train.max_iter = coco_iterations(epochs=14, batch_size=train.reference_batch_size)
train.clip_grad_norm = 35.0
train.init_checkpoint = "imagenet://torchvision/resnet50"
optimizer.lr = 0.04
lr_multiplier.update(milestones=[9 / 14, 12 / 14], warmup_iters=3600, warmup_factor=1 / 32)
