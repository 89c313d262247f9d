"""Overlap of paired boxes, the losses made of it, and how central a point lies in a box.

Losses of the published detectors bound the areas that they divide by from below. Those of fvcore and
torchvision (``giou_loss``, ``generalized_box_iou_loss``) add a small number instead, and neither clamps the
sides of the enclosing box; fvcore's waits for the device to check its input, and fails on boxes inside out.

Boxes are XYXY, in any unit; shapes broadcast. All is computed in at least float32, also under autocast.
"""

from __future__ import annotations

import torch
from torch import Tensor

from htd.layers.sampling import full_precision


def paired_iou(boxes: Tensor, others: Tensor, eps: float = 1e-6) -> Tensor:
    """Return the intersection over union (...) of boxes (..., 4) each with its other (..., 4).

    Args:
        boxes, others (Tensor): areas are taken as they are, so boxes that are inside out have signed ones.
        eps (float): lower bound of the union, in square units of the boxes.
    """
    with torch.autocast(boxes.device.type, enabled=False):
        intersection, union = _areas(boxes, others)
        return intersection / union.clamp(min=eps)


def paired_giou(boxes: Tensor, others: Tensor, eps: float = 1e-6) -> Tensor:
    """Return the generalized intersection over union (...) in [-1, 1], as `paired_iou`.

    Paper: Generalized Intersection over Union, algorithm 1. ``eps`` bounds the enclosing area, too.
    """
    with torch.autocast(boxes.device.type, enabled=False):
        intersection, union = _areas(boxes, others)
        union, enclosure = union.clamp(min=eps), _enclosure(boxes, others).clamp(min=eps)
        return intersection / union - (enclosure - union) / enclosure


def giou_loss(boxes: Tensor, targets: Tensor, eps: float = 1e-6) -> Tensor:
    """Return 1 - GIoU (...); arguments as in `paired_giou`."""
    return 1 - paired_giou(boxes, targets, eps)


def iou_loss(boxes: Tensor, targets: Tensor, eps: float = 1e-6) -> Tensor:
    """Return -log max(IoU, eps) (...), whose gradient is 0 for boxes apart; arguments as in `paired_iou`."""
    return -paired_iou(boxes, targets, eps).clamp(min=eps).log()


@torch.no_grad()
def centerness(points: Tensor, boxes: Tensor) -> Tensor:
    """Return 1 at the middle of a box, falling to 0 at its border and 0 outside; no gradients.

    Paper: FCOS, equation 3.

    Args:
        points (Tensor): (..., 2) as (x, y).
        boxes (Tensor): (..., 4) in the same frame.

    Returns:
        Tensor (...).
    """
    points, boxes = full_precision(points), full_precision(boxes)
    before, after = points - boxes[..., :2], boxes[..., 2:] - points
    inside = (torch.minimum(before, after) > 0).all(dim=-1)
    ratio = torch.minimum(before, after) / torch.maximum(before, after)
    return torch.where(inside, ratio.prod(dim=-1), 0).sqrt()


def _areas(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Return the areas (...) of intersection and union.

    Coordinate by coordinate, since the gradient of ``prod`` over pairs would wait for the device.
    """
    x1, y1, x2, y2 = full_precision(boxes).unbind(dim=-1)
    u1, v1, u2, v2 = full_precision(others).unbind(dim=-1)
    width = (torch.minimum(x2, u2) - torch.maximum(x1, u1)).clamp(min=0)
    height = (torch.minimum(y2, v2) - torch.maximum(y1, v1)).clamp(min=0)
    intersection = width * height
    return intersection, (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - intersection


def _enclosure(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the area (...) of the smallest enclosing box."""
    x1, y1, x2, y2 = full_precision(boxes).unbind(dim=-1)
    u1, v1, u2, v2 = full_precision(others).unbind(dim=-1)
    width = (torch.maximum(x2, u2) - torch.minimum(x1, u1)).clamp(min=0)
    return width * (torch.maximum(y2, v2) - torch.minimum(y1, v1)).clamp(min=0)
