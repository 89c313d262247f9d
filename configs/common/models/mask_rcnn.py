"""Mask R-CNN, ResNet-50, FPN: Faster R-CNN with a mask head; objects claim their best proposals."""

from .faster_rcnn import model
from .two_stage import mask_branch, objects_take_their_best_rois

objects_take_their_best_rois(model.roi_heads.stages)
model.roi_heads.mask_branch = mask_branch(loss_weights=[1.0])
