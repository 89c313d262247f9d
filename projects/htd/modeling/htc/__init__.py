"""Hybrid Task Cascade: the semantic branch and the flow of information between mask heads."""

from htd.modeling.htc.information_flow import MaskInformationFlow
from htd.modeling.htc.semantic import FusedSemanticHead, MeanOverAll, MeanOverLabelled

__all__ = ["FusedSemanticHead", "MaskInformationFlow", "MeanOverAll", "MeanOverLabelled"]
