"""Region proposal network with the published rules as parts."""

from htd.modeling.rpn.anchors import RoundedAnchorGenerator
from htd.modeling.rpn.labeling import AnchorLabeler
from htd.modeling.rpn.normalizer import AnchorBudget, SampledAnchors
from htd.modeling.rpn.proposals import Detectron2ProposalRule, ProposalRule
from htd.modeling.rpn.rpn import PublishedRPN

__all__ = [
    "AnchorBudget",
    "AnchorLabeler",
    "Detectron2ProposalRule",
    "ProposalRule",
    "PublishedRPN",
    "RoundedAnchorGenerator",
    "SampledAnchors",
]
