"""Progressive constraint: TSD's towers are to beat the sibling head by a margin.

Paper: TSD, section 3.3. As published, and not in the paper: the sibling's values are constants, and no more
than a value of 1 is asked for.

Symbols: N images, R RoIs of the batch, P positives among them, K foreground classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from htd.errors import UserError


@dataclass(frozen=True)
class Comparison:
    """What both heads say about the samples of a batch, in float32.

    Attributes:
        logits, sibling_logits: (R, K + 1).
        classes: (R,) in [0, K].
        boxes, sibling_boxes: (P, 4), decoded for the true class, pixels of the resized input, not clipped.
        gt_boxes: (P, 4).
        roi_image: (R,) int64, the image of each RoI.
        positives, rois: (N,) how many there are of each image.
    """

    logits: Tensor
    sibling_logits: Tensor
    classes: Tensor
    boxes: Tensor
    sibling_boxes: Tensor
    gt_boxes: Tensor
    roi_image: Tensor
    positives: Tensor
    rois: Tensor


def shortfall(ours: Tensor, sibling: Tensor, margin: float) -> Tensor:
    """Return by how much values (n,) in [0, 1] miss the sibling's plus a margin; those are constants."""
    sibling = sibling.detach()
    return F.relu(sibling + (1 - sibling).clamp(max=margin) - ours)


class _Margin:
    """What both constraints have in common.

    Args:
        margin: by how much to beat the sibling, in [0, 1].

    Raises:
        UserError: the margin is not in [0, 1].
    """

    def __init__(self, *, margin: float = 0.3):
        if not 0 <= margin <= 1:
            raise UserError(f"margin={margin} of a progressive constraint: give a number from 0 to 1")
        self.margin = margin


class ClassificationMargin(_Margin):
    """The probability of the true class is to exceed the sibling's (TSD, section 3.3, M_cls).

    As published, an image without positives counts as a single RoI that is beyond reproach.
    """

    def __call__(self, compared: Comparison) -> dict[str, Tensor]:
        """Return ``loss_margin_cls``, a scalar: the mean over the RoIs, background included."""
        rows = torch.arange(len(compared.classes), device=compared.classes.device)
        ours = compared.logits.softmax(dim=1)[rows, compared.classes]
        sibling = compared.sibling_logits.softmax(dim=1)[rows, compared.classes]
        counts = compared.positives > 0
        missed = shortfall(ours, sibling, self.margin) * counts[compared.roi_image]
        return {"loss_margin_cls": missed.sum() / torch.where(counts, compared.rois, 1).sum()}


class LocalizationMargin(_Margin):
    """The IoU of the true class's box is to exceed the sibling's (TSD, section 3.3, M_loc).

    As published, an image without positives counts as a single RoI that is beyond reproach.
    """

    def __call__(self, compared: Comparison) -> dict[str, Tensor]:
        """Return ``loss_margin_loc``, a scalar: the mean over the positives."""
        ours = paired_iou(compared.boxes, compared.gt_boxes)
        sibling = paired_iou(compared.sibling_boxes, compared.gt_boxes)
        missed = shortfall(ours, sibling, self.margin)
        return {"loss_margin_loc": missed.sum() / compared.positives.clamp(min=1).sum()}


def paired_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the IoU (n,) of each of the boxes (n, 4) with its partner; a union counts one pixel at least."""
    low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    inter = (high - low).clamp(min=0).prod(dim=1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(dim=1) for boxes in (a, b)]
    return inter / (sum(areas) - inter).clamp(min=1)
