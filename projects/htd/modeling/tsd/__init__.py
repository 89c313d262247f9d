"""TSD: task-aware spatial disentanglement of classification and regression in the heads of an R-CNN."""

from htd.modeling.tsd.constraint import ClassificationMargin, LocalizationMargin
from htd.modeling.tsd.head import ShiftedClassification, ShiftedRegression, TSDHead
from htd.modeling.tsd.pooling import OffsetPooler, SharedMapOffsetPooler
from htd.modeling.tsd.shift import BoxShift, NoShift, PointShift
from htd.modeling.tsd.sibling import NoSibling, SiblingTower
from htd.modeling.tsd.stage import TSDStage

__all__ = [
    "BoxShift",
    "ClassificationMargin",
    "LocalizationMargin",
    "NoShift",
    "NoSibling",
    "OffsetPooler",
    "PointShift",
    "SharedMapOffsetPooler",
    "ShiftedClassification",
    "ShiftedRegression",
    "SiblingTower",
    "TSDHead",
    "TSDStage",
]
