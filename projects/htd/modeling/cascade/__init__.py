"""Machinery that all two-stage detectors share: stages in a row, built from parts."""

from htd.modeling.cascade.ground_truth import GroundTruth
from htd.modeling.cascade.heads import (
    Classified,
    DecoupledHead,
    FCRegression,
    FCStack,
    SharedFCHead,
    box_dim,
    box_predictor,
    flat_features,
    init_predictor,
)
from htd.modeling.cascade.legacy_masks import LegacyMaskTargets, legacy_paste
from htd.modeling.cascade.mask_heads import ConvMaskHead, IndependentHeads, init_conv
from htd.modeling.cascade.mask_rois import RefinedPositives, SampledPositives
from htd.modeling.cascade.mask_targets import mask_targets
from htd.modeling.cascade.masks import MaskBranch, NoMasks
from htd.modeling.cascade.pooling import (
    AllLevelsPooler,
    ImageVector,
    LegacyRoIAlignPooler,
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
from htd.modeling.cascade.stage import BestForegroundClass, CascadeStage, SampledOrBestClass, of_class

__all__ = [
    "AllLevelsPooler",
    "BestForegroundClass",
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
    "LegacyMaskTargets",
    "LegacyRoIAlignPooler",
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
    "SampledOrBestClass",
    "SampledPositives",
    "SharedFCHead",
    "SharedMapPooler",
    "SingleLevelPooler",
    "StagedROIHeads",
    "SummedPoolers",
    "VectorAugmentedPooler",
    "box_dim",
    "box_predictor",
    "flat_features",
    "init_conv",
    "init_predictor",
    "legacy_paste",
    "mask_targets",
    "of_class",
    "row_chunks",
]
