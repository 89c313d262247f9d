"""HTD R-50 FPN with a mask head on its last stage, 12 epochs. No published AP; not run here.

The model is not published. HTD's weights convert; the mask head then starts from its initial values.
Run: train_net.py --config-file configs/htd/htd_mask_r50_fpn_1x.py --num-gpus 8.
"""

from ..common.data.coco_masks import dataloader
from ..common.models.two_stage import mask_branch
from .htd_r50_fpn_1x import lr_multiplier, model, optimizer, train

model.roi_heads.mask_branch = mask_branch(loss_weights=[1.0])
