"""Task alignment learning: its assigner, and a criterion that starts without it.

Symbols: P priors, G objects of an image, k candidate priors per object, K classes. Boxes are XYXY in pixels
of the resized input.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from detectron2.utils import comm
from torch import Tensor, nn

from htd.layers import object_slices, paired_iou
from htd.layers.sampling import full_precision
from htd.modeling.dense.assigners import (
    UNUSED,
    Assigner,
    Assignment,
    Predicted,
    assign_to_highest_iou,
    nearest_side,
)
from htd.modeling.dense.boxes import Priors
from htd.modeling.metrics import storage_every

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AlignedCandidates:
    """The k best aligned priors of each of G objects.

    Attributes:
        prior: (G, k) int64 in [0, P).
        alignment: (G, k), the metric t = score^alpha * IoU^beta, 0 for priors that are not valid.
        iou: (G, k), of the predicted boxes with the objects.
        positive: (G, k) bool, those with an alignment above 0 whose center lies in the object.
    """

    prior: Tensor
    alignment: Tensor
    iou: Tensor
    positive: Tensor


class TaskAlignedAssigner(Assigner):
    """An object gets the priors that both score its class and locate it best.

    As in the published implementation, positive priors lie in the object, and of several objects that a prior
    is positive for, the one with the highest IoU, not alignment, has it; of equal ones the first. The metric
    of the assignment is the alignment, scaled for each object so that its maximum is the maximum IoU of its
    priors.

    Paper: TOOD: Task-aligned One-stage Object Detection, section 3.2, https://arxiv.org/abs/2108.07755

    Args:
        alpha, beta: exponents of the score and of the IoU.
        topk: candidates of an object, of all levels together.
        center_margin: a positive prior's center lies more than this, in pixels, inside of all sides.
        eps: added to the maximum alignment before it divides.
        pairs_at_once: pairs of a prior and an object held in memory at a time.
    """

    reads_predictions = True

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        beta: float = 6.0,
        topk: int = 13,
        center_margin: float = 0.01,
        eps: float = 1e-7,
        pairs_at_once: int = 2**22,
    ):
        if topk < 1:
            raise ValueError(f"topk is {topk}; it has to be at least 1")
        self.alpha = alpha
        self.beta = beta
        self.topk = topk
        self.center_margin = center_margin
        self.eps = eps
        self.pairs_at_once = pairs_at_once

    def __call__(
        self, priors: Priors, valid: Tensor, gt_boxes: Tensor, gt_classes: Tensor, predicted: Predicted | None
    ) -> Assignment:
        """See :class:`Assigner`."""
        candidates = self.candidates(priors, valid, gt_boxes, gt_classes, predicted)
        gt_index, assigned = assign_to_highest_iou(
            candidates.prior, candidates.iou, candidates.positive, len(priors)
        )
        alignment = torch.where(assigned, candidates.alignment, 0)
        max_iou = torch.where(assigned, candidates.iou, 0).amax(dim=1, keepdim=True)
        scaled = alignment / (alignment.amax(dim=1, keepdim=True) + self.eps) * max_iou
        metric = scaled.new_zeros(len(priors))
        metric = metric.scatter_reduce(0, candidates.prior.flatten(), scaled.flatten(), "amax")
        return Assignment(torch.where(valid, gt_index, UNUSED), metric)

    def candidates(
        self, priors: Priors, valid: Tensor, gt_boxes: Tensor, gt_classes: Tensor, predicted: Predicted
    ) -> AlignedCandidates:
        """Return the candidates of each object; arguments as in a call."""
        gt_boxes, boxes = full_precision(gt_boxes), full_precision(predicted.boxes)
        class_scores = full_precision(predicted.scores).t().contiguous()  # (K, P)
        shape = len(gt_boxes), min(self.topk, len(priors))
        prior = gt_classes.new_empty(shape, dtype=torch.int64)
        alignment, iou = boxes.new_empty(shape), boxes.new_empty(shape)
        for part in object_slices(len(gt_boxes), len(priors), self.pairs_at_once):
            all_iou = paired_iou(gt_boxes[part, None], boxes)
            metric = class_scores[gt_classes[part]].pow_(self.alpha).mul_(all_iou.pow(self.beta))
            metric = metric.masked_fill_(~valid, 0)
            alignment[part], prior[part] = metric.topk(shape[1], sorted=False)
            iou[part] = all_iou.gather(1, prior[part])
        inside = nearest_side(full_precision(priors.centers)[prior], gt_boxes[:, None]) > self.center_margin
        return AlignedCandidates(prior, alignment, iou, inside & (alignment > 0))


class TwoPhaseCriterion(nn.Module):
    """Trains by one criterion up to an iteration, and by another one from there on.

    The published code trains 4 of its 12 or 24 epochs without task alignment. The phase follows from the
    iteration alone and is not saved: a resumed training is at once in the right phase, and one that starts
    from finished weights is in the initial phase again, unless the switch is 0. If :meth:`set_iteration` has
    never been called, the iteration is that of Detectron2's event storage.

    Paper: TOOD: Task-aligned One-stage Object Detection, section 4, https://arxiv.org/abs/2108.07755

    Args:
        initial, aligned: the criteria of the two phases.
        switch_iter: 0-based iteration of the first aligned step; 0 is aligned from the start.
        switch_epochs: the same in passes over the training data, which :meth:`begin_training` turns into
            iterations. Exactly one of the two is given.
    """

    def __init__(
        self,
        *,
        initial: nn.Module,
        aligned: nn.Module,
        switch_iter: int | None = None,
        switch_epochs: float | None = None,
    ) -> None:
        super().__init__()
        if (switch_iter is None) == (switch_epochs is None):
            raise ValueError(
                f"switch_iter is {switch_iter} and switch_epochs is {switch_epochs}; give exactly one of them"
            )
        switch = switch_epochs if switch_iter is None else switch_iter
        if not 0 <= switch < float("inf"):
            raise ValueError(f"the switch is {switch}; it has to be at least 0 and finite")
        self.initial = initial
        self.aligned = aligned
        self.switch_epochs = switch_epochs
        # Zero epochs are zero iterations, however long an epoch is.
        self.switch_iter = 0 if switch_epochs == 0 else switch_iter
        self._iteration: int | None = None

    @property
    def reads(self) -> set[str]:
        """Names of the optional fields of the predictions that the losses of either phase read."""
        return self.initial.reads | self.aligned.reads

    def begin_training(self, start: int, end: int, iterations_per_epoch: int | None = None) -> None:
        """Turn ``switch_epochs`` into iterations, and log in which phase a training starts.

        Args:
            start, end: first iteration of the training and the one after its last.
            iterations_per_epoch: needed if ``switch_epochs`` is given.
        """
        self._iteration = None
        if self.switch_epochs:
            if iterations_per_epoch is None:
                raise ValueError(
                    "switch_epochs is given, but the data loader has no iterations_an_epoch that says how "
                    "long an epoch is; give switch_iter instead"
                )
            self.switch_iter = round(self.switch_epochs * iterations_per_epoch)
        if not comm.is_main_process():
            return
        switch = self.switch_iter
        if start >= switch:
            logger.info("the training starts in the aligned phase, which is from iteration %d on", switch)
            return
        logger.info(
            "the training starts in the initial phase; the aligned phase is from iteration %d on", switch
        )
        if end <= switch:
            logger.warning(
                "the training ends at iteration %d, before its aligned phase, which would begin at iteration "
                "%d: lower %s, or train longer",
                end,
                switch,
                "switch_iter" if self.switch_epochs is None else "switch_epochs",
            )

    def set_iteration(self, iteration: int) -> None:
        """Say which step of the whole training, from 0, is about to run."""
        if iteration == self.switch_iter and self._iteration == iteration - 1 and comm.is_main_process():
            logger.info("the aligned phase of the training begins at iteration %d", iteration)
        self._iteration = iteration

    @property
    def aligned_now(self) -> bool:
        """Whether the current step is one of the aligned phase."""
        if self.switch_iter is None:
            raise ValueError("switch_epochs is given; call begin_training() with the length of an epoch")
        if self.switch_iter == 0:
            return True
        if self._iteration is not None:
            return self._iteration >= self.switch_iter
        storage = storage_every(1)
        if storage is None:
            raise ValueError("the iteration is not known; call set_iteration() before each training step")
        return storage.iter >= self.switch_iter

    def forward(self, *args, **kwargs):
        """Return what the criterion of the current phase returns."""
        return (self.aligned if self.aligned_now else self.initial)(*args, **kwargs)

    def extra_repr(self) -> str:
        """Return the switch, for the model's text."""
        return f"switch_iter={self.switch_iter}, switch_epochs={self.switch_epochs}"
