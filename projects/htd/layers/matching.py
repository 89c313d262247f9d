"""Which boxes a ground truth claims, by their overlap.

Symbols: G ground-truth boxes of an image, R boxes. Boxes are XYXY in pixels of the resized input.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from htd.layers.box_overlap import paired_iou


def object_slices(num_objects: int, num_boxes: int, pairs_at_once: int) -> Iterator[slice]:
    """Yield slices of the ground truth, in order: all its pairs with all boxes may not fit into memory.

    Args:
        num_objects: G; without any there is no slice.
        num_boxes: R.
        pairs_at_once: pairs of box and ground truth that a slice has at most; one ground truth is the least.
    """
    at_once = max(1, pairs_at_once // max(1, num_boxes))
    for start in range(0, num_objects, at_once):
        yield slice(start, min(start + at_once, num_objects))


def match_by_iou(
    boxes: Tensor,
    gt_boxes: Tensor,
    *,
    positive_iou: float,
    negative_iou: float,
    low_quality_iou: float,
    pairs_at_once: int,
) -> tuple[Tensor, Tensor]:
    """Divide boxes into positives, negatives and the rest between, by the published rule.

    Paper: Faster R-CNN, section 3.1.2. A box is positive if its IoU with some ground truth is at least
    ``positive_iou``; negative if all are below ``negative_iou``. Each ground truth also claims boxes, see
    :func:`last_claim`; a later ground truth takes boxes from an earlier one.

    Args:
        boxes: (R, 4), all of which take part.
        gt_boxes: (G, 4), taken a few at a time: what one claims depends on all boxes but on no other one.
        positive_iou, negative_iou, low_quality_iou: thresholds in [0, 1].
        pairs_at_once: see :func:`object_slices`.

    Returns:
        labels (R,) int64: 1 positive, 0 negative, -1 neither; index (R,) int64 of the ground truth that a
        positive belongs to: the claiming one, else that of the highest IoU, of equal ones the first.
    """
    best = boxes.new_zeros(len(boxes))
    index = torch.zeros_like(best, dtype=torch.int64)
    claimed_by = torch.full_like(index, -1)
    for part in object_slices(len(gt_boxes), len(boxes), pairs_at_once):
        iou = paired_iou(gt_boxes[part, None], boxes)
        value, row = iou.max(dim=0)
        index = torch.where(value > best, row + part.start, index)
        best = torch.maximum(best, value)
        claimed_by = torch.maximum(claimed_by, last_claim(iou, low_quality_iou, part.start))
    labels = torch.where(best >= positive_iou, 1, torch.where(best < negative_iou, 0, -1))
    labels = labels.masked_fill(claimed_by >= 0, 1)
    return labels, torch.where(claimed_by >= 0, claimed_by, index)


def last_claim(iou: Tensor, least_iou: float, first_index: int = 0) -> Tensor:
    """Return the last ground truth that claims each box, -1 where none does.

    Paper: Faster R-CNN, section 3.1.2 (i), with the minimum of the published detectors: a ground truth
    whose best IoU is at least ``least_iou`` claims every box that attains this best IoU. Where several
    claim a box, the one with the highest index has it. A ground truth that overlaps no box claims none; in
    the published implementation it has all of them if the minimum is 0.

    Args:
        iou (Tensor): (G, R), of ground truth (rows) and boxes.
        least_iou (float): in [0, 1].
        first_index (int): index of the ground truth of the first row.

    Returns:
        Tensor (R,) int64.
    """
    if not iou.numel():
        return torch.full((iou.shape[1],), -1, dtype=torch.int64, device=iou.device)
    best = iou.max(dim=1, keepdim=True).values
    claims = (iou == best) & (best >= least_iou) & (best > 0)
    number = torch.arange(first_index, first_index + len(iou), device=iou.device)
    return torch.where(claims, number[:, None], -1).max(dim=0).values
