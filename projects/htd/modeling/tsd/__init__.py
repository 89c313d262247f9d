"""TSD: task-aware spatial disentanglement of classification and regression in the heads of an R-CNN.

Paper: Revisiting the Sibling Head in Object Detector, G. Song et al., CVPR 2020,
https://arxiv.org/abs/2003.07540.

TSD is a head for any stage of :class:`htd.modeling.cascade.StagedROIHeads`. For a RoI P with features F_P:

1. One hidden layer reads F_P (``TSDHead.trunk``).
2. Delta_R, one offset for the RoI, moves it as a whole: P_r = P + gamma Delta_R (w, h). Regression pools
   P_r, and its deltas refer to P_r (:class:`BoxShift`, :class:`ShiftedRegression`).
3. Delta_C, one offset for each of the k x k bins, deforms the pooling grid. Classification pools the
   displaced bins (:class:`PointShift`, :class:`ShiftedClassification`).
4. In training a sibling head, that of Faster R-CNN, works on F_P beside the towers. Both have the usual
   losses (:class:`TSDLosses`).
5. Progressive constraint: the towers' probability of the true class and IoU are to exceed the sibling's by a
   margin, M_cls and M_loc (:class:`ClassificationMargin`, :class:`LocalizationMargin`).
6. At test the sibling is not run.

Here gamma is ``shift_factor`` and k the side of the pooled map. The forward pass is ``TSDHead.classify`` and
``TSDHead.regress``.
"""

from htd.modeling.tsd.head import (
    BoxShift,
    NoShift,
    OffsetPooler,
    PointShift,
    SemanticOffsetPooler,
    ShiftedClassification,
    ShiftedRegression,
    TSDHead,
    kaiming_weight,
)
from htd.modeling.tsd.losses import ClassificationMargin, LocalizationMargin, TSDLosses

__all__ = [
    "BoxShift",
    "ClassificationMargin",
    "LocalizationMargin",
    "NoShift",
    "OffsetPooler",
    "PointShift",
    "SemanticOffsetPooler",
    "ShiftedClassification",
    "ShiftedRegression",
    "TSDHead",
    "TSDLosses",
    "kaiming_weight",
]
