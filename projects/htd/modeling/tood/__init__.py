"""TOOD: task-aligned one-stage detection (T-Head and task alignment learning)."""

from htd.modeling.tood.alignment import AlignedPredictors, SampledBoxDecoder
from htd.modeling.tood.assigner import TaskAlignedAssigner
from htd.modeling.tood.task_decomposition import InteractiveTowers, TaskDecomposition

__all__ = [
    "AlignedPredictors",
    "InteractiveTowers",
    "SampledBoxDecoder",
    "TaskAlignedAssigner",
    "TaskDecomposition",
]
