"""The priors of a batch with their predictions and the objects that they are to find.

Symbols: N images, P priors, K classes. Everything has a row for each prior of each image, with masks instead
of lists of positives: nothing then depends on a count that a GPU would have to be asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.structures import Instances
from torch import Tensor

from htd.modeling.dense.assigners import UNUSED, Assigner, Assignment, Predicted
from htd.modeling.dense.predictions import DensePredictions
from htd.modeling.dense.priors import Priors


@dataclass(frozen=True)
class Matched:
    """What losses read; boxes are XYXY in pixels of the resized input.

    Attributes:
        priors: of the batch.
        predictions: at the priors.
        pred_boxes: (N, P, 4) predicted boxes; those of priors without an object are constants, so that
            nothing they hold can reach a loss.
        gt_classes: (N, P) int64 in [0, K], K where there is no object.
        gt_boxes: (N, P, 4) the objects' boxes, the priors' own where there is no object.
        positive: (N, P) bool, priors with an object.
        counted: (N, P) bool, priors that take part in the classification loss.
        metric: (N, P) the assigner's, 0 where there is no object.
    """

    priors: Priors
    predictions: DensePredictions
    pred_boxes: Tensor
    gt_classes: Tensor
    gt_boxes: Tensor
    positive: Tensor
    counted: Tensor
    metric: Tensor


def match(
    assigner: Assigner,
    priors: Priors,
    predictions: DensePredictions,
    boxes: Tensor,
    targets: Sequence[Instances],
    pad_divisor: int,
) -> Matched:
    """Assign the objects of each image to its priors.

    Args:
        assigner: see :mod:`htd.modeling.dense.assigners`.
        priors: of the batch.
        predictions: at the priors.
        boxes: (N, P, 4), decoded from the predictions.
        targets: N items with ``gt_boxes`` and ``gt_classes``, and the size of their image without padding.
        pad_divisor: see :meth:`Priors.valid`.
    """
    found = []
    for i, target in enumerate(targets):
        predicted = None
        if assigner.reads_predictions:
            predicted = Predicted(predictions.logits[i].detach().sigmoid(), boxes[i].detach())
        valid = priors.valid(target.image_size, pad_divisor)
        truth = target.gt_boxes.tensor, target.gt_classes
        found.append((assigner(priors, valid, *truth, predicted), *truth))
    background = predictions.logits.shape[-1]
    objects = [_objects(*one, priors, background) for one in found]
    gt_classes, gt_boxes = (torch.stack(each) for each in zip(*objects, strict=True))
    index = torch.stack([assignment.gt_index for assignment, *_ in found])
    positive = index >= 0
    return Matched(
        priors=priors,
        predictions=predictions,
        pred_boxes=torch.where(positive[..., None], boxes, gt_boxes.to(boxes.dtype)),
        gt_classes=gt_classes,
        gt_boxes=gt_boxes,
        positive=positive,
        counted=index != UNUSED,
        metric=torch.stack([assignment.metric for assignment, *_ in found]),
    )


def _objects(
    assignment: Assignment, gt_boxes: Tensor, gt_classes: Tensor, priors: Priors, background: int
) -> tuple[Tensor, Tensor]:
    """Return the class (P,) and the box (P, 4) of each prior's object."""
    none = gt_classes.new_full((len(priors),), background)
    if not len(gt_boxes):
        return none, priors.boxes
    row, positive = assignment.gt_index.clamp(min=0), assignment.gt_index >= 0
    boxes = torch.where(positive[:, None], gt_boxes[row].to(priors.boxes.dtype), priors.boxes)
    return torch.where(positive, gt_classes[row], none), boxes
