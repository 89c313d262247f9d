"""HTD: heterogeneous task decoupling for two-stage detection (W. Li et al., IEEE TIP 2022)."""

from htd.modeling.htd.border_aware import (
    AddFusion,
    AverageBorderFusion,
    BorderAwareFeatures,
    BorderAwareRegression,
    BorderTerm,
    ConvTower,
    LevelWeightedTerm,
    ReplaceBorderFusion,
)
from htd.modeling.htd.graph_classification import GraphClassification, NoGraph, ProposalGraph
from htd.modeling.htd.semantic_aggregation import SemanticAggregation

__all__ = [
    "AddFusion",
    "AverageBorderFusion",
    "BorderAwareFeatures",
    "BorderAwareRegression",
    "BorderTerm",
    "ConvTower",
    "GraphClassification",
    "LevelWeightedTerm",
    "NoGraph",
    "ProposalGraph",
    "ReplaceBorderFusion",
    "SemanticAggregation",
]
