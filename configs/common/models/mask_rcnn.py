"""Mask R-CNN, ResNet-50, FPN: Faster R-CNN with a mask head; objects claim their best proposals."""

from detectron2.config import LazyCall as L

from htd.modeling.cascade import ReassigningMatcher

from .faster_rcnn import model
from .two_stage import mask_branch

model.roi_heads.stages[0].sampler.matcher = L(ReassigningMatcher)(iou=0.5)
model.roi_heads.mask_branch = mask_branch(loss_weights=[1.0])
