"""Machinery that all two-stage detectors share: stages in a row, built from parts."""

from htd.modeling.cascade.heads import (
    ClassificationOutput,
    FCStack,
    SharedFCHead,
    box_dim,
    box_predictor,
    init_predictor,
)
from htd.modeling.cascade.mask_targets import LegacyMaskTargets, legacy_paste, mask_targets
from htd.modeling.cascade.masks import (
    ConvMaskHead,
    IndependentHeads,
    MaskBranch,
    NoMasks,
    RefinedPositives,
    SampledPositives,
    init_conv,
)
from htd.modeling.cascade.postprocessing import (
    DetectionPostProcessing,
    LastStage,
    MeanLogits,
    MeanProbabilities,
    RoIPredictions,
)
from htd.modeling.cascade.roi_heads import ContextParts, StagedROIHeads
from htd.modeling.cascade.rois import (
    AllLevelsPooler,
    GroundTruth,
    ImageVectorPooler,
    LegacyRoIAlignPooler,
    LevelRule,
    RoIContext,
    RoIs,
    SemanticPooler,
    SingleLevelPooler,
    SummedPoolers,
)
from htd.modeling.cascade.sampling import ReassigningMatcher, RoILabeler, RoISampler
from htd.modeling.cascade.stage import (
    BestForegroundClass,
    BoxLosses,
    CascadeStage,
    SampledOrBestClass,
    of_class,
)

__all__ = [
    "AllLevelsPooler",
    "BestForegroundClass",
    "BoxLosses",
    "CascadeStage",
    "ClassificationOutput",
    "ContextParts",
    "ConvMaskHead",
    "DetectionPostProcessing",
    "FCStack",
    "GroundTruth",
    "ImageVectorPooler",
    "IndependentHeads",
    "LastStage",
    "LegacyMaskTargets",
    "LegacyRoIAlignPooler",
    "LevelRule",
    "MaskBranch",
    "MeanLogits",
    "MeanProbabilities",
    "NoMasks",
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
    "SemanticPooler",
    "SingleLevelPooler",
    "StagedROIHeads",
    "SummedPoolers",
    "box_dim",
    "box_predictor",
    "init_conv",
    "init_predictor",
    "legacy_paste",
    "mask_targets",
    "of_class",
]
