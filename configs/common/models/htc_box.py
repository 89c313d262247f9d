"""HTC without masks and semantics, ResNet-50, FPN: the form for data that have boxes alone."""

from .cascade_rcnn import model
from .two_stage import objects_take_their_best_rois

objects_take_their_best_rois(model.roi_heads.stages)
model.roi_heads.postprocessing.score_threshold = 0.001
