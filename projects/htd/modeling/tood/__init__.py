"""TOOD: task-aligned one-stage object detection.

Paper: TOOD: Task-aligned One-stage Object Detection, https://arxiv.org/abs/2108.07755

For the map of each pyramid level, T-Head (section 3.1; :mod:`htd.modeling.tood.head`) computes:

1. X_1, ..., X_N: N = 6 convolutions in a row whose outputs both tasks share (``InteractiveTowers``).
2. w = sigmoid(fc2(relu(fc1(pool(X))))) and Z_task = relu(norm(conv(w * X))): for each task, the features that
   it takes from the layers (``TaskDecomposition``).
3. P from Z_cls, B from Z_reg: class scores and boxes before alignment (``Predictors`` of the dense machine).
4. P_align = sqrt(sigmoid(P) * sigmoid(M)), with a map M predicted from X (``AlignedPredictors``).
5. B_align(i, j, c) = B(i + O_2c, j + O_2c+1, c), with offsets O predicted from X (``AlignedPredictors``
   predicts them, ``SampledBoxDecoder`` samples the boxes).

Training (section 3.2; :mod:`htd.modeling.tood.task_alignment`), after a first phase with the ATSS assigner:

6. t = s^alpha * u^beta from the score s and the IoU u of each prior with each object; an object gets the m =
   13 priors of the largest t, and t is scaled to a maximum of the largest u (``TaskAlignedAssigner``).
7. The scaled t is the target of the class score (``QualityFocalLoss``), and the weight of the box loss
   (``GIoULoss``); both losses are divided by the sum of t (``WeightSum``).
"""

from htd.modeling.tood.head import AlignedPredictors, InteractiveTowers, SampledBoxDecoder, TaskDecomposition
from htd.modeling.tood.task_alignment import TaskAlignedAssigner, TwoPhaseCriterion

__all__ = [
    "AlignedPredictors",
    "InteractiveTowers",
    "SampledBoxDecoder",
    "TaskAlignedAssigner",
    "TaskDecomposition",
    "TwoPhaseCriterion",
]
