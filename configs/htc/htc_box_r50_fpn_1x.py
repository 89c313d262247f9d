"""HTC R-50 FPN for data with boxes only, 12 epochs. No published AP; not run here.

Run: train_net.py --config-file configs/htc/htc_box_r50_fpn_1x.py --num-gpus 8.
"""

from ..common.data.coco import dataloader
from ..common.models.htc_box import model
from ..common.optim import SGD as optimizer
from ..common.schedules import coco_iterations
from ..common.schedules import step as lr_multiplier
from ..common.train import train

train.init_checkpoint = "imagenet://torchvision/resnet50"
train.max_iter = coco_iterations(epochs=12, batch_size=train.reference_batch_size)
