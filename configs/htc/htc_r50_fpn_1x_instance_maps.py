"""HTC R-50 FPN with semantic maps drawn from the instance masks, 12 epochs. No published AP; not run here.

For data with boxes and masks: tools/draw_semantic_maps.py draws the maps.
Run: train_net.py --config-file configs/htc/htc_r50_fpn_1x_instance_maps.py --num-gpus 8.
"""

from ..common.data.coco_instance_maps import dataloader
from ..common.models.htc import learn_classes_and_background
from .htc_r50_fpn_1x import lr_multiplier, model, optimizer, train

learn_classes_and_background(model.roi_heads.context.semantic)
