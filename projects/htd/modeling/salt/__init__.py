"""SALT-Net: an operator that lets each task of a dense detector look at points of its own."""

from htd.modeling.salt.coarse_loss import AssignedBox, CoarseBoxLoss, CoarseWeightSum, RefinedBox
from htd.modeling.salt.operator import SALTOperator
from htd.modeling.salt.towers import SALTTowers

__all__ = [
    "AssignedBox",
    "CoarseBoxLoss",
    "CoarseWeightSum",
    "RefinedBox",
    "SALTOperator",
    "SALTTowers",
]
