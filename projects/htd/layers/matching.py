"""Which boxes a ground truth claims for being the best there is for it."""

from __future__ import annotations

import torch
from torch import Tensor


def last_claim(iou: Tensor, least_iou: float, first_index: int = 0) -> Tensor:
    """Return the last ground truth that claims each box, -1 where none does.

    Paper: Faster R-CNN, section 3.1.2 (i), with the minimum of the published detectors: a ground truth
    whose best IoU is at least ``least_iou`` claims every box that attains this best IoU. Where several
    claim a box, the one with the highest index has it.

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
    claims = (iou == best) & (best >= least_iou)
    number = torch.arange(first_index, first_index + len(iou), device=iou.device)
    return torch.where(claims, number[:, None], -1).max(dim=0).values
