"""SALT-Net: an operator that lets each task of a dense detector look at points of its own.

Paper: Rethinking the Misalignment Problem in Dense Object Detection, https://arxiv.org/abs/2108.12176

SALT-Net is the dense machine with towers, GFL's losses and quality predictors, and for the map x of each
level (:mod:`htd.modeling.salt.operator`):

1. F_r = tower_r(x), F_c = tower_c(x) + x: features of regression and of classification (``SALTTowers``).
2. (l, t, r, b) = s * relu(conv(F_r)): a coarse box around the cell; f = sigmoid(conv(F_r)): 14 scale factors.
3. R_k: nine regression points in the coarse box, four of them on its sides (``regression_points``).
4. C_k = exp(v_k) * stop_gradient(R_k): classification points, with vectors v predicted from F_c
   (``class_points``).
5. F_r' and F_c': a 3x3 convolution of F_r at the R_k, and one of F_c at the C_k (``SALTOperator``).
6. Boxes from F_r', class scores from F_c', multiplied by a quality that is read from the box distributions
   (``QualityPredictors`` of the dense machine).

Training adds a loss of the coarse boxes, weighted by the final class score: the self-distillation of section
3 (:mod:`htd.modeling.salt.coarse_boxes`).
"""

from htd.modeling.salt.coarse_boxes import AssignedBox, CoarseBoxLoss, CoarseWeightSum, RefinedBox
from htd.modeling.salt.operator import SALTOperator, SALTTowers

__all__ = [
    "AssignedBox",
    "CoarseBoxLoss",
    "CoarseWeightSum",
    "RefinedBox",
    "SALTOperator",
    "SALTTowers",
]
