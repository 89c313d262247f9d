"""Machinery that all two-stage detectors share: stages in a row, built from parts."""

from htd.modeling.cascade.ground_truth import GroundTruth
from htd.modeling.cascade.heads import (
    Classified,
    DecoupledHead,
    FCRegression,
    FCStack,
    SharedFCHead,
    box_predictor,
    init_predictor,
)
from htd.modeling.cascade.mask_heads import ConvMaskHead, IndependentHeads, init_conv
from htd.modeling.cascade.mask_rois import RefinedPositives, SampledPositives
from htd.modeling.cascade.mask_targets import mask_targets
from htd.modeling.cascade.masks import MaskBranch, NoMasks
from htd.modeling.cascade.pooling import (
    AllLevelsPooler,
    ImageVector,
    NoVector,
    SharedMapPooler,
    SingleLevelPooler,
    SummedPoolers,
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
from htd.modeling.cascade.sampling import ReassigningMatcher, RoILabeler, RoISampler
from htd.modeling.cascade.stage import CascadeStage

__all__ = [
    "AllLevelsPooler",
    "CascadeStage",
    "Classified",
    "ContextParts",
    "ConvMaskHead",
    "DecoupledHead",
    "DetectionSelector",
    "FCRegression",
    "FCStack",
    "GroundTruth",
    "ImageVector",
    "IndependentHeads",
    "LastStage",
    "LevelRule",
    "MaskBranch",
    "MeanLogits",
    "MeanProbabilities",
    "NoMasks",
    "NoVector",
    "ReassigningMatcher",
    "RefinedPositives",
    "RoIContext",
    "RoILabeler",
    "RoIPredictions",
    "RoISampler",
    "RoIs",
    "SampledPositives",
    "SharedFCHead",
    "SharedMapPooler",
    "SingleLevelPooler",
    "StagedROIHeads",
    "SummedPoolers",
    "VectorAugmentedPooler",
    "box_predictor",
    "init_conv",
    "init_predictor",
    "mask_targets",
    "row_chunks",
]
