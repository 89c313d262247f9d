"""Faster R-CNN R-50 FPN, OpenImages Challenge 2019, 12 epochs.

Published AP50 70.7 (OpenImages validation); not run here.
Run: train_net.py --config-file configs/baselines/faster_rcnn_r50_fpn_openimages.py --num-gpus 8.
"""

from ..common.data.openimages_inclusive import dataloader
from ..common.models.faster_rcnn_legacy import model
from ..common.models.open_images import for_open_images
from ..common.optim import SGD as optimizer
from ..common.schedules import open_images_iterations
from ..common.schedules import step as lr_multiplier
from ..common.train import train

for_open_images(model)
train.reference_batch_size = dataloader.train.total_batch_size
train.max_iter = open_images_iterations(epochs=12, batch_size=train.reference_batch_size)
train.clip_grad_norm = 35.0
train.init_checkpoint = "imagenet://torchvision/resnet50"
train.best_metric = "bbox/AP50"
optimizer.lr = 0.08
lr_multiplier.update(milestones=[8 / 12, 11 / 12], warmup_iters=26000, warmup_factor=1 / 64)
