"""The training criterion of a dense detector: assignment, losses, and what the losses are divided by.

Symbols: N images, P priors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.distributed as dist
from detectron2.structures import Instances
from detectron2.utils import comm
from torch import Tensor, nn

from htd.layers import within_padding
from htd.modeling.dense.assigners import UNUSED, Assigner, Predicted
from htd.modeling.dense.boxes import Priors
from htd.modeling.dense.head import DensePredictions
from htd.modeling.dense.losses import DenseLoss, DenseTargets, Weighting
from htd.modeling.metrics import PERIOD, storage_every

# A gradient is divided by the normalizer before it is multiplied by weights that are as small: below this the
# quotient could overflow.
SMALLEST_NORMALIZER = 1e-20


class Normalizer(Protocol):
    """What the sum of a loss is divided by, averaged over the processes.

    Attributes:
        least: lower limit of the average; 0 for none.
    """

    least: float

    def __call__(self, targets: DenseTargets) -> Tensor:
        """Return the value of this process, a scalar."""


class PositiveCount:
    """The number of priors with an object.

    Args:
        least_each_image: what an image with fewer of them counts.
        extra_each_image: what each image counts in addition.
        least: lower limit of the average over the processes.
    """

    def __init__(self, *, least_each_image: int = 0, extra_each_image: int = 0, least: float = 1.0):
        self.least_each_image = least_each_image
        self.extra_each_image = extra_each_image
        self.least = least

    def __call__(self, targets: DenseTargets) -> Tensor:
        """Return the count, a scalar."""
        counts = targets.positive.sum(dim=1).clamp(min=self.least_each_image) + self.extra_each_image
        return counts.sum().to(targets.metric.dtype)


class WeightSum:
    """The sum of the weights of priors with an object.

    Args:
        weighting: of each prior.
        least: lower limit of the average over the processes; without one, 0, a sum below 1e-20 counts as 1.
    """

    def __init__(self, *, weighting: Weighting, least: float = 1.0):
        self.weighting = weighting
        self.least = least

    def __call__(self, targets: DenseTargets) -> Tensor:
        """Return the sum, a scalar."""
        return (self.weighting(targets) * targets.positive).sum()


class LossTerm:
    """One of the losses that are summed.

    Args:
        name: starts with ``loss_``.
        loss: gives one value per prior.
        normalizer: what their sum is divided by.
        weight: factor of the loss, at least 0.
    """

    def __init__(self, *, name: str, loss: DenseLoss, normalizer: Normalizer, weight: float = 1.0):
        if not 0 <= weight < float("inf"):  # a negative weight would train the loss to grow
            raise ValueError(f"weight of {name} is {weight}; it has to be at least 0 and finite")
        self.name = name
        self.loss = loss
        self.normalizer = normalizer
        self.weight = weight


class DenseCriterion(nn.Module):
    """Assigns objects to priors and computes the losses of what is predicted there; without parameters.

    Args:
        assigner: see :mod:`htd.modeling.dense.assigners`.
        terms: the losses.
        pad_divisor: an image's sides are padded to multiples of this; priors of cells beyond an image's own
            padding (in a batch with a larger image) take no part.
    """

    def __init__(self, *, assigner: Assigner, terms: Sequence[LossTerm], pad_divisor: int = 32):
        super().__init__()
        if not terms:
            raise ValueError("terms are empty; give at least one loss")
        if pad_divisor < 1:
            raise ValueError(f"pad_divisor is {pad_divisor}; it has to be at least 1")
        self.assigner = assigner
        self.terms = list(terms)
        self.pad_divisor = pad_divisor

    @property
    def reads(self) -> set[str]:
        """Names of the optional fields of the predictions that the losses read."""
        return {term.loss.reads for term in self.terms} - {None}

    def forward(
        self, priors: Priors, predictions: DensePredictions, boxes: Tensor, gt_instances: Sequence[Instances]
    ) -> dict[str, Tensor]:
        """Return the losses by the names of their terms, scalars in at least float32.

        Args:
            priors: of the batch.
            predictions: at the priors.
            boxes: (N, P, 4), decoded from them, in pixels of the resized input.
            gt_instances: N items with ``gt_boxes``, ``gt_classes`` and the size of the image without padding.

        Note: without objects the losses of boxes are 0 and depend on all parameters.
        """
        with torch.autocast(boxes.device.type, enabled=False):
            targets = assign_targets(
                self.assigner, priors, predictions, boxes, gt_instances, self.pad_divisor
            )
            # One collective for all terms, which a process without objects joins, too.
            normalizers = torch.stack([term.normalizer(targets) for term in self.terms])
            if comm.get_world_size() > 1:
                dist.all_reduce(normalizers)
                normalizers /= comm.get_world_size()
            losses = {}
            for term, normalizer in zip(self.terms, normalizers.unbind(), strict=True):
                normalizer = clamp_normalizer(normalizer, term.normalizer.least)
                losses[term.name] = term.weight * term.loss(targets).sum() / normalizer
            if (storage := storage_every(PERIOD)) is not None:
                storage.put_scalar("dense/num_pos", (targets.positive.sum() / len(gt_instances)).item())
        return losses


def assign_targets(
    assigner: Assigner,
    priors: Priors,
    predictions: DensePredictions,
    boxes: Tensor,
    gt_instances: Sequence[Instances],
    pad_divisor: int,
) -> DenseTargets:
    """Assign the objects of each image to its priors; arguments as in :class:`DenseCriterion`."""
    background = predictions.logits.shape[-1]
    gt_index, metric, gt_classes, gt_boxes = [], [], [], []
    for i, instances in enumerate(gt_instances):
        predicted = None
        if assigner.reads_predictions:
            predicted = Predicted(predictions.logits[i].detach().sigmoid(), boxes[i].detach())
        valid = within_padding(priors.split(priors.boxes), priors.strides, instances.image_size, pad_divisor)
        image_boxes, image_classes = instances.gt_boxes.tensor, instances.gt_classes
        assignment = assigner(priors, valid, image_boxes, image_classes, predicted)
        prior_classes = image_classes.new_full((len(priors),), background)
        prior_boxes = priors.boxes
        if len(image_boxes):
            positive, index = assignment.gt_index >= 0, assignment.gt_index.clamp(min=0)
            prior_classes = torch.where(positive, image_classes[index], prior_classes)
            prior_boxes = torch.where(
                positive[:, None], image_boxes[index].to(priors.boxes.dtype), priors.boxes
            )
        gt_index.append(assignment.gt_index)
        metric.append(assignment.metric)
        gt_classes.append(prior_classes)
        gt_boxes.append(prior_boxes)
    index, gt_boxes = torch.stack(gt_index), torch.stack(gt_boxes)
    positive = index >= 0
    return DenseTargets(
        priors=priors,
        predictions=predictions,
        pred_boxes=torch.where(positive[..., None], boxes, gt_boxes.to(boxes.dtype)),
        gt_classes=torch.stack(gt_classes),
        gt_boxes=gt_boxes,
        positive=positive,
        counted=index != UNUSED,
        metric=torch.stack(metric),
    )


def clamp_normalizer(value: Tensor, least: float) -> Tensor:
    """Return a normalizer (scalar) of at least ``least``; without a limit a vanishing one becomes 1."""
    return value.clamp(min=least) if least else torch.where(value > SMALLEST_NORMALIZER, value, 1)
