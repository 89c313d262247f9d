"""What assigners share: where priors lie in objects, and which object gets a prior that several claim.

Symbols: P priors, G objects of an image, k priors that each object looks at. Boxes are XYXY in pixels of the
resized input.
"""

from __future__ import annotations

import torch
from torch import Tensor

from htd.modeling.dense.assigners.base import BACKGROUND


def nearest_side(points: Tensor, boxes: Tensor) -> Tensor:
    """Return how far points lie inside of the nearest side of boxes.

    Args:
        points: (..., 2) as (x, y).
        boxes: (..., 4); the shapes broadcast.

    Returns:
        (...) in pixels, above 0 for points within the box alone.
    """
    x, y = points.unbind(dim=-1)
    x1, y1, x2, y2 = boxes.unbind(dim=-1)
    return torch.minimum(torch.minimum(x - x1, x2 - x), torch.minimum(y - y1, y2 - y))


def farthest_side(points: Tensor, boxes: Tensor) -> Tensor:
    """Return how far points lie inside of the farthest side; arguments as in :func:`nearest_side`."""
    x, y = points.unbind(dim=-1)
    x1, y1, x2, y2 = boxes.unbind(dim=-1)
    return torch.maximum(torch.maximum(x - x1, x2 - x), torch.maximum(y - y1, y2 - y))


def highest_iou_wins(prior: Tensor, iou: Tensor, claimed: Tensor, num_priors: int) -> tuple[Tensor, Tensor]:
    """Give each prior to the object of the highest IoU among those that claim it; of equal ones to the first.

    Args:
        prior: (G, k) int64 in [0, P); an object names a prior once.
        iou: (G, k), of the priors with the objects.
        claimed: (G, k) bool, which of them the objects claim.
        num_priors: P.

    Returns:
        (P,) int64, the object of each prior, ``BACKGROUND`` where none claims it; and (G, k) bool, which
        claims are granted.
    """
    named, objects = prior.flatten(), torch.arange(len(prior), device=prior.device)[:, None]
    best = iou.new_full((num_priors,), -1.0)
    best = best.scatter_reduce(0, named, torch.where(claimed, iou, -1.0).flatten(), "amax")
    wins = claimed & (iou == best[prior])
    first = prior.new_full((num_priors,), len(prior))
    first = first.scatter_reduce(0, named, torch.where(wins, objects, len(prior)).flatten(), "amin")
    return torch.where(first < len(prior), first, BACKGROUND), wins & (objects == first[prior])
