"""HTC without masks and semantics, ResNet-50, FPN: the form for data that have boxes alone."""

from detectron2.config import LazyCall as L

from htd.modeling.cascade import ReassigningMatcher

from .cascade_rcnn import model


def objects_claim_their_best_rois(stages):
    """Give every stage the matcher that the published HTC has, at the stage's IoU."""
    for stage in stages:
        stage.sampler.matcher = L(ReassigningMatcher)(iou=stage.sampler.matcher.thresholds[0])


objects_claim_their_best_rois(model.roi_heads.stages)
model.roi_heads.selection.score_threshold = 0.001
