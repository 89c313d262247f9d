"""Faster R-CNN, ResNet-50, FPN, with the conventions of the release of TSD."""

from .legacy import use_inclusive_boxes, use_legacy_pooling
from .two_stage import box_stage, objects_take_their_best_rois, shared_fc_head, two_stage_detector

model = two_stage_detector(
    stages=[box_stage(iou=0.5, stds=(0.1, 0.1, 0.2, 0.2), head=shared_fc_head(class_agnostic=False))]
)
objects_take_their_best_rois(model.roi_heads.stages)
use_inclusive_boxes(model)
use_legacy_pooling(model)
