"""Dense detectors as lists of parts: backbone, head, priors, decoder, criterion, post-processing.

An image's way, with N images, P priors of all levels and K classes:

1. ``OneStageDetector`` normalizes and pads the images; the backbone gives feature maps p3 to p7.
2. ``DenseHead`` runs towers and predictors on each level: logits (N, P, K) and D numbers of each box (N, P,
   D).
3. ``Priors`` are the anchors of all cells; a decoder makes boxes (N, P, 4) of both.
4. Training: ``DenseCriterion`` assigns objects to priors (:mod:`htd.modeling.dense.assigners`), and sums
   weighted losses (:mod:`htd.modeling.dense.losses`) that are divided by normalizers.
5. Inference: the post-processing chooses the boxes before the non-maximum suppression, and selects the
   detections.
"""

from htd.modeling.dense.assigners import ATSSAssigner, FCOSAssigner, IoUAssigner
from htd.modeling.dense.boxes import DeltaDecoder, DistanceDecoder, DistributionDecoder, Priors
from htd.modeling.dense.criterion import DenseCriterion, LossTerm, PositiveCount, WeightSum
from htd.modeling.dense.detector import OneStageDetector
from htd.modeling.dense.head import DenseHead, DensePredictions, TaskFeatures, Towers, TwinTowers
from htd.modeling.dense.losses import (
    AssignedMetric,
    BestScore,
    Centerness,
    CenternessLoss,
    DeltaLoss,
    DenseTargets,
    DistributionLoss,
    FocalLoss,
    GIoULoss,
    IoULoss,
    PredictedIoU,
    QualityFocalLoss,
)
from htd.modeling.dense.postprocessing import (
    BestClass,
    BestClassTimesCenterness,
    LocationTopK,
    PairTopK,
    PreNMSBoxes,
    RescaleFirst,
    SuppressFirst,
)
from htd.modeling.dense.predictors import (
    ExpOfScaled,
    Predictors,
    QualityPredictors,
    Scaled,
    ScaledExp,
    Unscaled,
)

__all__ = [
    "ATSSAssigner",
    "AssignedMetric",
    "BestClass",
    "BestClassTimesCenterness",
    "BestScore",
    "Centerness",
    "CenternessLoss",
    "DeltaDecoder",
    "DeltaLoss",
    "DenseCriterion",
    "DenseHead",
    "DensePredictions",
    "DenseTargets",
    "DistanceDecoder",
    "DistributionDecoder",
    "DistributionLoss",
    "ExpOfScaled",
    "FCOSAssigner",
    "FocalLoss",
    "GIoULoss",
    "IoUAssigner",
    "IoULoss",
    "LocationTopK",
    "LossTerm",
    "OneStageDetector",
    "PairTopK",
    "PositiveCount",
    "PreNMSBoxes",
    "PredictedIoU",
    "Predictors",
    "Priors",
    "QualityFocalLoss",
    "QualityPredictors",
    "RescaleFirst",
    "Scaled",
    "ScaledExp",
    "SuppressFirst",
    "TaskFeatures",
    "Towers",
    "TwinTowers",
    "Unscaled",
    "WeightSum",
]
