"""Dense detectors as lists of parts: priors, head, assigner, losses, decoder, post-processing."""

from htd.modeling.dense.assigners import ATSSAssigner, FCOSAssigner, IoUAssigner
from htd.modeling.dense.candidates import (
    BestClass,
    BestClassTimesCenterness,
    Candidates,
    LocationSelection,
    PairSelection,
)
from htd.modeling.dense.decoders import DeltaDecoder, DistanceDecoder, DistributionDecoder
from htd.modeling.dense.detector import OneStageDetector
from htd.modeling.dense.head import DenseHead, Predictors
from htd.modeling.dense.losses import (
    CenternessLoss,
    DeltaLoss,
    DistributionLoss,
    FocalLoss,
    GIoULoss,
    IoULoss,
    QualityFocalLoss,
)
from htd.modeling.dense.normalizers import PositiveCount, WeightSum
from htd.modeling.dense.phases import TwoPhases
from htd.modeling.dense.postprocessing import RescaleFirst, SuppressFirst
from htd.modeling.dense.predictions import DensePredictions
from htd.modeling.dense.priors import Priors
from htd.modeling.dense.quality import QualityPredictors
from htd.modeling.dense.regression import ExpOfScaled, Scaled, ScaledExp, Unscaled
from htd.modeling.dense.supervision import LossTerm, Supervision
from htd.modeling.dense.towers import TaskFeatures, TwinTowers
from htd.modeling.dense.weighting import AssignedMetric, BestScore, Centerness, PredictedIoU

__all__ = [
    "ATSSAssigner",
    "AssignedMetric",
    "BestClass",
    "BestClassTimesCenterness",
    "BestScore",
    "Candidates",
    "Centerness",
    "CenternessLoss",
    "DeltaDecoder",
    "DeltaLoss",
    "DenseHead",
    "DensePredictions",
    "DistanceDecoder",
    "DistributionDecoder",
    "DistributionLoss",
    "ExpOfScaled",
    "FCOSAssigner",
    "FocalLoss",
    "GIoULoss",
    "IoUAssigner",
    "IoULoss",
    "LocationSelection",
    "LossTerm",
    "OneStageDetector",
    "PairSelection",
    "PositiveCount",
    "PredictedIoU",
    "Predictors",
    "Priors",
    "QualityFocalLoss",
    "QualityPredictors",
    "RescaleFirst",
    "Scaled",
    "ScaledExp",
    "Supervision",
    "SuppressFirst",
    "TaskFeatures",
    "TwinTowers",
    "TwoPhases",
    "Unscaled",
    "WeightSum",
]
