"""GFL, ResNet-50, FPN: ATSS whose scores are qualities and whose sides are distributions."""

from detectron2.config import LazyCall as L

from htd.modeling.dense import (
    BestScore,
    DistributionDecoder,
    DistributionLoss,
    GIoULoss,
    PredictedIoU,
    QualityFocalLoss,
    WeightSum,
)

from .atss import model, positives
from .dense import best_locations, term

best_score = L(BestScore)()
# As published the sum has no lower limit, however small it is at the start of a training.
score_sum = L(WeightSum)(weighting=best_score, least=0.0)

# 17 bins for each of the four sides.
model.head.predictors.update(box_dim=68, centerness_from=None)
model.decoder = L(DistributionDecoder)()
model.criterion.terms = [
    term("loss_cls", L(QualityFocalLoss)(quality=L(PredictedIoU)(), beta=2.0), positives),
    term("loss_box_reg", L(GIoULoss)(weighting=best_score, eps=1e-7), score_sum, weight=2.0),
    term("loss_dfl", L(DistributionLoss)(weighting=best_score), score_sum, weight=0.25),
]
model.postprocessing.update(pre_nms=best_locations(), min_box_size=None)
