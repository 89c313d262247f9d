"""Boxes of a dense map whose coordinates are each read at a place of their own.

These places have one value each. The rule of deform_conv.py, four row numbers and weights for every place,
pays with many channels; here, those numbers would be more than what is read by them. So what is read are the
neighbours themselves (beside torchvision's kernel: ``tools/benchmark.py --component sampled_boxes``).

Symbols: N images, maps of (H, W) cells; a map of boxes is (N, 4, H, W), its channels x1, y1, x2, y2.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from htd.layers.sampling import full_precision, within_reach


def sample_coordinates(boxes: Tensor, offsets: Tensor) -> Tensor:
    """Read every coordinate bilinearly at a displaced cell of its own map.

    Paper: TOOD, section 3.1. Equal to a deformable convolution with four groups, whose kernel is
    one tap of weight 1. Beyond the map all is zero, so samples near the border are drawn towards the origin.

    Args:
        boxes (Tensor): (N, 4, H, W), relative to the origin of the image; any unit.
        offsets (Tensor): (N, 8, H, W) in cells: (y, x) for each coordinate in turn. Any number is allowed.

    Returns:
        Tensor (N, 4, H, W) in at least float32, with gradients for both; NaN at offsets that are NaN. Samples
        may be inside out, see `repair_boxes`.
    """
    with torch.autocast(boxes.device.type, enabled=False):
        boxes = full_precision(boxes)
        height, width = boxes.shape[-2:]
        y = torch.arange(height, device=boxes.device, dtype=boxes.dtype)
        x = torch.arange(width, device=boxes.device, dtype=boxes.dtype)
        offsets = offsets.to(boxes.dtype)
        y = within_reach(offsets[:, 0::2] + y[:, None], height).flatten(2)
        x = within_reach(offsets[:, 1::2] + x, width).flatten(2)
        # One cell of zeros before and two after the map make all neighbours ordinary ones.
        padded, row = F.pad(boxes, (1, 2, 1, 2)), width + 3
        left, top = x.detach().floor(), y.detach().floor()
        cell = (top.long() + 1) * row + left.long() + 1
        cell = cell.clamp(0, (height + 2) * row - 2)  # a position that is NaN has no cell

        padded = padded.flatten(2)
        x, y = x - left, y - top
        upper = torch.lerp(padded.gather(2, cell), padded.gather(2, cell + 1), x)
        lower = torch.lerp(padded.gather(2, cell + row), padded.gather(2, cell + row + 1), x)
        return torch.lerp(upper, lower, y).view(boxes.shape)


def repair_boxes(sampled: Tensor, original: Tensor) -> Tensor:
    """Return the sampled boxes, and the original ones where those are inside out (x1 > x2 or y1 > y2).

    Args:
        sampled, original (Tensor): (N, 4, H, W).

    Returns:
        Tensor (N, 4, H, W); gradients go to the box that was taken.
    """
    inside_out = (sampled[:, :2] > sampled[:, 2:]).any(dim=1, keepdim=True)
    return torch.where(inside_out, original, sampled)
