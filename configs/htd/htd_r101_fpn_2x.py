"""HTD R-101 FPN, 24 epochs, one scale, Soft-NMS. No published AP; not run here.

The released weights were trained at one scale, says their author; the published file has many scales.
Run: train_net.py --config-file configs/htd/htd_r101_fpn_2x.py --num-gpus 6.
"""

from detectron2.config import LazyCall as L

from htd.layers import SoftNMS

from ..common.schedules import coco_iterations
from .htd_r50_fpn_1x import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.depth = 101
model.roi_heads.postprocessing.nms = L(SoftNMS)(method="linear", iou_threshold=0.5, min_score=0.05)

# Published on 6 GPUs with 2 images each.
train.reference_batch_size = dataloader.train.total_batch_size = 12
train.max_iter = coco_iterations(epochs=24, batch_size=train.reference_batch_size)
train.init_checkpoint = "imagenet://torchvision/resnet101"
optimizer.lr = 0.015
