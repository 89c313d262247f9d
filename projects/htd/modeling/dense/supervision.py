"""Trains the predictions of a dense head: assignment, losses, and what they are divided by.

Symbols: N images, P priors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from detectron2.structures import Instances
from detectron2.utils import comm
from torch import Tensor, nn

from htd.errors import UserError
from htd.modeling.dense.assigners import Assigner
from htd.modeling.dense.checks import as_written, check_whole, is_finite
from htd.modeling.dense.losses import Loss
from htd.modeling.dense.matched import match
from htd.modeling.dense.normalizers import Normalizer
from htd.modeling.dense.predictions import DensePredictions
from htd.modeling.dense.priors import Priors
from htd.modeling.metrics import due_storage, write

# A gradient is divided by the normaliser before it is multiplied by weights that are as small: below this the
# first could overflow.
NOTHING = 1e-20


class LossTerm:
    """One of the losses that are summed.

    Args:
        name: begins with ``loss_``.
        loss: gives a value for each prior, see :mod:`htd.modeling.dense.losses`.
        normalizer: what their sum is divided by, see :mod:`htd.modeling.dense.normalizers`.
        weight: factor of the loss, from 0 on.

    Raises:
        UserError: ``weight`` is something else.
    """

    def __init__(self, *, name: str, loss: Loss, normalizer: Normalizer, weight: float = 1.0):
        if not is_finite(weight) or weight < 0:
            raise UserError(
                f"the weight of {name} (model.supervision) is {as_written(weight)}: give a number from 0 on; "
                "a negative one trains the loss to grow"
            )
        self.name = name
        self.loss = loss
        self.normalizer = normalizer
        self.weight = weight


class Supervision(nn.Module):
    """Assigns objects to priors and sums the losses of what is predicted at them.

    It has no parameters. Positives are masked, not listed, and the normalisers of all terms are averaged over
    the processes in one call, which a process without objects makes, too.

    Args:
        assigner: see :mod:`htd.modeling.dense.assigners`.
        terms: the losses.
        pad_divisor: an image's sides are padded to multiples of this; priors of cells beyond an image's own
            padding (in a batch with a larger image) take no part.

    Raises:
        UserError: there are no terms, or ``pad_divisor`` is no whole number from 1 on.
    """

    def __init__(self, *, assigner: Assigner, terms: Sequence[LossTerm], pad_divisor: int = 32):
        super().__init__()
        if not terms:
            raise UserError(
                "the terms of a Supervision (model.supervision) are empty, so nothing would be trained: give "
                "at least one loss, such as those of configs/common/models/atss.py"
            )
        check_whole("pad_divisor of a Supervision (model.supervision)", pad_divisor, 1)
        self.assigner = assigner
        self.terms = list(terms)
        self.pad_divisor = pad_divisor

    def forward(
        self, priors: Priors, predictions: DensePredictions, boxes: Tensor, targets: Sequence[Instances]
    ) -> dict[str, Tensor]:
        """Return the losses by the names of the terms, scalars in at least float32.

        Args:
            priors: of the batch.
            predictions: at the priors.
            boxes: (N, P, 4), decoded from them, pixels of the resized input.
            targets: N items with ``gt_boxes`` and ``gt_classes`` and the size of the image without padding.

        Note: without objects the losses of boxes are 0 and depend on all parameters.
        """
        with torch.autocast(boxes.device.type, enabled=False):
            matched = match(self.assigner, priors, predictions, boxes, targets, self.pad_divisor)
            norms = mean_over_processes(torch.stack([term.normalizer(matched) for term in self.terms]))
            losses = {}
            for term, norm in zip(self.terms, norms.unbind(), strict=True):
                norm = at_least(norm, term.normalizer.least)
                losses[term.name] = term.weight * term.loss(matched).sum() / norm
            if (storage := due_storage()) is not None:
                write(storage, {"dense/num_pos": matched.positive.sum() / len(targets)})
        return losses


def mean_over_processes(values: Tensor) -> Tensor:
    """Return the mean of values (...) over all processes."""
    if comm.get_world_size() > 1:
        values = values.clone()
        dist.all_reduce(values)
        values /= comm.get_world_size()
    return values


def at_least(norm: Tensor, least: float) -> Tensor:
    """Return a normaliser (scalar) of at least ``least``; with 0 for it, next to nothing becomes one."""
    return norm.clamp(min=least) if least else torch.where(norm > NOTHING, norm, 1)
