"""Reasoning over a set of boxes: which overlap, what their neighbours know, who resembles whom.

Symbols: n boxes of one group, D feature width.
"""

import torch
from torch import Tensor

from htd.layers.sampling import full_precision


def overlap_mask(boxes: Tensor) -> Tensor:
    """Return (n, n) float: 1 where two boxes (n, 4) overlap, and on the diagonal; else 0.

    A box without area overlaps nothing, itself included; the diagonal is set so that it still
    has one neighbour.
    """
    low = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    # Not `fill_diagonal_`, which cannot be traced.
    itself = torch.eye(boxes.shape[0], dtype=torch.bool, device=boxes.device)
    return ((high > low).all(dim=2) | itself).to(boxes.dtype)


def spatial_aggregation(mask: Tensor, features: Tensor) -> Tensor:
    """Average features (n, D) over overlapping boxes: D^-1/2 M D^-1/2 x, D the row sums of M.

    Paper: HTD, local spatial aggregation of PGraph.

    Args:
        mask: M (n, n), symmetric, with ones on the diagonal.
        features: x (n, D).
    """
    scale = mask.sum(dim=1).rsqrt()[:, None]
    return scale * (mask @ (scale * features))


def semantic_attention(mask: Tensor, semantics: Tensor) -> Tensor:
    """Return row-stochastic weights (n, n) by the likeness of boxes that do not overlap.

    Paper: HTD, global semantic interaction of PGraph. As in the published implementation a masked
    pair has logit 0, not minus infinity, so it keeps the weight of exp(0). The products reach the
    size where half precision would turn the softmax into a maximum: computed in float32.

    Args:
        mask: M (n, n), 1 for pairs left out.
        semantics: (n, D).
    """
    with torch.autocast(device_type=semantics.device.type, enabled=False):
        semantics = full_precision(semantics)
        return ((1 - mask) * (semantics @ semantics.T)).softmax(dim=1)
