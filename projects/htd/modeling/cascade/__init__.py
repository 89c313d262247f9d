"""Machinery that all two-stage detectors share: stages in a row, built from parts."""

from htd.modeling.cascade.heads import (
    Classified,
    DecoupledHead,
    FCRegression,
    FCStack,
    SharedFCHead,
    box_predictor,
    init_predictor,
)
from htd.modeling.cascade.pooling import (
    AllLevelsPooler,
    ImageVector,
    NoVector,
    SingleLevelPooler,
    VectorAugmentedPooler,
)
from htd.modeling.cascade.prediction import (
    DetectionSelector,
    LastStage,
    MeanLogits,
    MeanProbabilities,
    RoIPredictions,
)
from htd.modeling.cascade.roi_heads import ContextParts, StagedROIHeads
from htd.modeling.cascade.rois import LevelRule, RoIContext, RoIs, row_chunks
from htd.modeling.cascade.sampling import RoILabeler, RoISampler
from htd.modeling.cascade.stage import CascadeStage

__all__ = [
    "AllLevelsPooler",
    "CascadeStage",
    "Classified",
    "ContextParts",
    "DecoupledHead",
    "DetectionSelector",
    "FCRegression",
    "FCStack",
    "ImageVector",
    "LastStage",
    "LevelRule",
    "MeanLogits",
    "MeanProbabilities",
    "NoVector",
    "RoIContext",
    "RoILabeler",
    "RoIPredictions",
    "RoISampler",
    "RoIs",
    "SharedFCHead",
    "SingleLevelPooler",
    "StagedROIHeads",
    "VectorAugmentedPooler",
    "box_predictor",
    "init_predictor",
    "row_chunks",
]
