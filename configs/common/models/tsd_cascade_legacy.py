"""TSD on Cascade R-CNN, ResNet-50, FPN, class-specific, with the conventions of the published weights."""

from detectron2.config import LazyCall as L

from htd.modeling.cascade import SampledOrBestClass

from .cascade_rcnn import model
from .legacy import use_inclusive_boxes, use_legacy_pooling
from .tsd import tsd_head, use_tsd
from .two_stage import objects_take_their_best_rois, roi_pooler

for _stage in model.roi_heads.stages:
    # A RoI that is taken for background is refined as background.
    _stage.losses.loss_weight = 1.0
    _stage.refined_class = L(SampledOrBestClass)()
    use_tsd(_stage, tsd_head(features=roi_pooler(), background_box=True))

objects_take_their_best_rois(model.roi_heads.stages)
use_inclusive_boxes(model)
use_legacy_pooling(model)
model.roi_heads.postprocessing.score_threshold = 0.0
