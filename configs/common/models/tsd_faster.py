"""TSD on Faster R-CNN, ResNet-50, FPN: continuous boxes, aligned pooling."""

from .tsd import tsd_head, use_tsd
from .two_stage import box_stage, objects_take_their_best_rois, roi_pooler, two_stage_detector

model = two_stage_detector(stages=[box_stage(iou=0.5, stds=(0.1, 0.1, 0.2, 0.2), head=None)])
use_tsd(model.roi_heads.stages[0], tsd_head(features=roi_pooler()))
objects_take_their_best_rois(model.roi_heads.stages)
# Strict: all (RoI, class) pairs enter the suppression.
model.roi_heads.postprocessing.score_threshold = 0.0
