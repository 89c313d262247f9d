"""Cascade Mask R-CNN, ResNet-50, FPN: Cascade R-CNN with a mask head in every stage."""

from .cascade_rcnn import model
from .two_stage import mask_branch

model.roi_heads.mask_branch = mask_branch(loss_weights=[1.0, 0.5, 0.25])
