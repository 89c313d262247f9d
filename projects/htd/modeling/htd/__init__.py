"""HTD: heterogeneous task decoupling for two-stage object detection.

Paper: HTD: Heterogeneous Task Decoupling for Two-Stage Object Detection, W. Li et al., IEEE TIP 2022,
https://doi.org/10.1109/TIP.2021.3126423.

HTD is a cascade of two stages (:class:`htd.modeling.cascade.StagedROIHeads`) on ResNet, FPN and RPN. With x
the features of a RoI on its own level, x_1 ... x_L those on all levels, and the steps of the paper:

1. SFA: g = mean(convs(P6)), one vector per image, learns which classes are in the image (``loss_global``).
2. ISC: g is added to every cell of the RoI features of both stages.
3. Stage 0, an ordinary head on x + g, gives classes and refined boxes; its classifier W_0 holds the
   prototypes.
4. PGraph classifies in stage 1. With e = fc(x): A averages e over overlapping RoIs, B mixes by the
   similarity of softmax(W_0 e) W_0 among the others, for each image and level; the logits are W_1 (fc(x + g)
   + relu(T_l B A e)).
5. BA regresses in stage 1: tower(x + g + sum_l a_l x_l + border(x_1)), a_l a softmax over the levels.
6. At test the logits of both stages are averaged, and the boxes are those of stage 1.

Step 1 and the branches of stage 1 are in :mod:`htd.modeling.htd.head`, their parts in ``graph.py`` and
``border_aware.py``.
"""

from htd.modeling.htd.border_aware import (
    AddFusion,
    AverageBorderFusion,
    BorderAwareFeatures,
    BorderTerm,
    ConvTower,
    LevelWeightedTerm,
    ReplaceBorderFusion,
)
from htd.modeling.htd.graph import NoGraph, ProposalGraph
from htd.modeling.htd.head import (
    BorderAwareRegression,
    DecoupledHead,
    FCRegression,
    GraphClassification,
    SemanticAggregation,
)

__all__ = [
    "AddFusion",
    "AverageBorderFusion",
    "BorderAwareFeatures",
    "BorderAwareRegression",
    "BorderTerm",
    "ConvTower",
    "DecoupledHead",
    "FCRegression",
    "GraphClassification",
    "LevelWeightedTerm",
    "NoGraph",
    "ProposalGraph",
    "ReplaceBorderFusion",
    "SemanticAggregation",
]
