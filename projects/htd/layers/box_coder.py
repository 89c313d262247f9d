"""Coding of boxes as offsets relative to other boxes.

Symbols: R boxes, XYXY in pixels of the resized input; deltas are (dx, dy, dw, dh), times the weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from torch import Tensor

from htd.layers.sampling import full_precision


class ClampedBox2BoxTransform(Box2BoxTransform):
    """``Box2BoxTransform`` that limits dw and dh on both sides.

    Paper: R-CNN, appendix C. The published detectors shrink a box at most as much as they let it
    grow; Detectron2 limits growth only. Half precision is computed in float32; float64 stays.

    Args:
        weights: factors of dx, dy, dw, dh: the inverse standard deviations of the published coders.
        scale_clamp: the largest |dw| and |dh|, after the division by their weights.
    """

    def __init__(self, weights: Sequence[float], scale_clamp: float = math.log(1000 / 16)):
        super().__init__(tuple(float(w) for w in weights), scale_clamp=scale_clamp)

    def get_deltas(self, src_boxes: Tensor, target_boxes: Tensor) -> Tensor:
        """Return the deltas (R, 4) that take src_boxes (R, 4) to target_boxes (R, 4).

        Note: boxes are not checked, for a check would make a GPU wait at every step. An empty
        source box gives infinite deltas.
        """
        x, y, w, h = _centre_form(full_precision(src_boxes))
        target_x, target_y, target_w, target_h = _centre_form(full_precision(target_boxes))
        wx, wy, ww, wh = self.weights
        deltas = [
            wx * (target_x - x) / w,
            wy * (target_y - y) / h,
            ww * torch.log(target_w / w),
            wh * torch.log(target_h / h),
        ]
        return torch.stack(deltas, dim=1)

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """Move boxes (R, 4) by deltas (R, 4k), k sets a box; return (R, 4k), not clipped."""
        deltas = full_precision(deltas)
        x, y, w, h = _centre_form(boxes.to(deltas.dtype)[:, None])
        dx, dy, dw, dh = deltas.unflatten(1, (-1, 4)).unbind(dim=2)
        wx, wy, ww, wh = self.weights
        x, y = x + dx / wx * w, y + dy / wy * h
        half_w = 0.5 * w * torch.exp((dw / ww).clamp(-self.scale_clamp, self.scale_clamp))
        half_h = 0.5 * h * torch.exp((dh / wh).clamp(-self.scale_clamp, self.scale_clamp))
        return torch.stack([x - half_w, y - half_h, x + half_w, y + half_h], dim=2).flatten(1)


def _centre_form(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x1, y1, x2, y2 = boxes.unbind(dim=-1)
    return x1 + 0.5 * (x2 - x1), y1 + 0.5 * (y2 - y1), x2 - x1, y2 - y1


def clip_boxes(boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Clip boxes (..., 4) to [0, width] x [0, height] of an image of ``(height, width)`` pixels."""
    height, width = image_size
    x1, y1, x2, y2 = boxes.unbind(dim=-1)
    return torch.stack(
        [x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height)], dim=-1
    )


def rescale_boxes(boxes: Tensor, old_size: tuple[float, float], new_size: tuple[float, float]) -> Tensor:
    """Bring boxes (..., 4) from a frame of ``old_size`` (height, width) pixels to one of ``new_size``."""
    scale_y, scale_x = (old / new for old, new in zip(old_size, new_size, strict=True))
    return boxes / boxes.new_tensor([scale_x, scale_y, scale_x, scale_y])
