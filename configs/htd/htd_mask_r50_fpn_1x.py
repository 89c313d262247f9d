"""HTD R-50 FPN with a mask head on its last stage, 12 epochs. No published AP; not run here.

The model is not published: the mask branch is that of Mask R-CNN.
Weights of HTD's boxes-only model convert with a mask branch that starts anew.
"""

from ..common.data.coco_masks import dataloader
from ..common.models.two_stage import mask_branch
from .htd_r50_fpn_1x import lr_multiplier, model, optimizer, train

model.roi_heads.mask_branch = mask_branch(loss_weights=[1.0])
