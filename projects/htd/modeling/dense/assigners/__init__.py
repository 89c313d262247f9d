"""Assigners: which priors are to find which object."""

from htd.modeling.dense.assigners.atss import ATSSAssigner, ATSSCandidates
from htd.modeling.dense.assigners.base import BACKGROUND, UNUSED, Assigner, Assignment, Predicted
from htd.modeling.dense.assigners.claims import highest_iou_wins, nearest_side
from htd.modeling.dense.assigners.fcos import FCOSAssigner
from htd.modeling.dense.assigners.iou import IoUAssigner

__all__ = [
    "BACKGROUND",
    "UNUSED",
    "ATSSAssigner",
    "ATSSCandidates",
    "Assigner",
    "Assignment",
    "FCOSAssigner",
    "IoUAssigner",
    "Predicted",
    "highest_iou_wins",
    "nearest_side",
]
