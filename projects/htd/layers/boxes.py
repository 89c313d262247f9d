"""Boxes: what their corners mean, their coding relative to each other, their overlap, and who is matched.

Boxes are XYXY in pixels of the resized input and are always kept as areas. In the inclusive convention of
older published detectors a box names its first and last pixels a and b, and covers the area from a to b + 1:
it is kept as (x1, y1, x2 + 1, y2 + 1). Widths, areas, IoU, suppression and coding "with + 1" are then the
plain ones, and whatever reads boxes need not know. What differs is arithmetic on the corners themselves:
clipping, rescaling and the test against the border of the image.

Symbols: R boxes, G ground-truth boxes of an image; deltas are (dx, dy, dw, dh) times their weights. Overlaps
are computed in at least float32, also under autocast.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from torch import Tensor

from htd.layers.sampling import full_precision


def clip_boxes(boxes: Tensor, image_size: tuple[float, float]) -> Tensor:
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


def as_pixels(boxes: Tensor) -> Tensor:
    """Return the numbers of the first and last pixels (..., 4) of areas (..., 4)."""
    return torch.cat([boxes[..., :2], boxes[..., 2:] - 1], dim=-1)


def as_areas(pixels: Tensor) -> Tensor:
    """Return the areas (..., 4) that boxes (..., 4), given by first and last pixels, cover."""
    return torch.cat([pixels[..., :2], pixels[..., 2:] + 1], dim=-1)


class ContinuousBoxes:
    """Corners are positions between pixels, as in Detectron2."""

    clip = staticmethod(clip_boxes)
    rescale = staticmethod(rescale_boxes)

    @staticmethod
    def inside(boxes: Tensor, image_size: tuple[float, float], border: float = 0.0) -> Tensor:
        """Return which boxes (R, 4) reach less than ``border`` pixels beyond the image, (R,) bool.

        As published, the left and upper sides may reach exactly ``border`` pixels beyond, the others may not.
        """
        height, width = image_size
        x1, y1, x2, y2 = boxes.unbind(dim=1)
        return (x1 >= -border) & (y1 >= -border) & (x2 < width + border) & (y2 < height + border)


class InclusiveBoxes(ContinuousBoxes):
    """Corners are the first and last pixels of a box: the convention of older published detectors.

    A clipped box keeps at least one pixel, and a box that is rescaled by s does not become s times as wide.
    """

    @staticmethod
    def clip(boxes: Tensor, image_size: tuple[float, float]) -> Tensor:
        """Clip the first and last pixels of boxes (..., 4) to 0 ... width - 1 and 0 ... height - 1."""
        height, width = image_size
        return as_areas(clip_boxes(as_pixels(boxes), (height - 1, width - 1)))

    @staticmethod
    def rescale(boxes: Tensor, old_size: tuple[float, float], new_size: tuple[float, float]) -> Tensor:
        """Scale the pixel numbers of boxes (..., 4) by the ratio of the frames' sizes."""
        return as_areas(rescale_boxes(as_pixels(boxes), old_size, new_size))

    @staticmethod
    def inside(boxes: Tensor, image_size: tuple[float, float], border: float = 0.0) -> Tensor:
        """Return which boxes (R, 4) have all pixels less than ``border`` beyond the image, (R,) bool."""
        return ContinuousBoxes.inside(as_pixels(boxes), image_size, border)


class ClampedBox2BoxTransform(Box2BoxTransform):
    """``Box2BoxTransform`` that limits dw and dh on both sides.

    Paper: Rich Feature Hierarchies for Accurate Object Detection (R-CNN), appendix C,
    https://arxiv.org/abs/1311.2524. The published detectors limit how much a box shrinks as they limit how
    much it grows; Detectron2 limits growth only. Half precision is computed in float32.

    Args:
        weights: factors of dx, dy, dw, dh: the inverse standard deviations of the published coders.
        scale_clamp: the largest |dw| and |dh|, after the division by their weights.
    """

    def __init__(self, weights: Sequence[float], scale_clamp: float = math.log(1000 / 16)):
        super().__init__(tuple(float(w) for w in weights), scale_clamp=scale_clamp)

    def get_deltas(self, src_boxes: Tensor, target_boxes: Tensor) -> Tensor:
        """Return the deltas (R, 4) that take src_boxes (R, 4) to target_boxes (R, 4).

        Note: boxes are not checked, since a check would make a GPU wait at every step. An empty source box
        gives infinite deltas.
        """
        x, y, w, h = _center_form(full_precision(src_boxes))
        target_x, target_y, target_w, target_h = _center_form(full_precision(target_boxes))
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
        x, y, w, h = _center_form(boxes.to(deltas.dtype)[:, None])
        dx, dy, dw, dh = deltas.unflatten(1, (-1, 4)).unbind(dim=2)
        wx, wy, ww, wh = self.weights
        x, y = x + dx / wx * w, y + dy / wy * h
        half_w = 0.5 * w * torch.exp((dw / ww).clamp(-self.scale_clamp, self.scale_clamp))
        half_h = 0.5 * h * torch.exp((dh / wh).clamp(-self.scale_clamp, self.scale_clamp))
        return torch.stack([x - half_w, y - half_h, x + half_w, y + half_h], dim=2).flatten(1)


def _center_form(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x1, y1, x2, y2 = boxes.unbind(dim=-1)
    return x1 + 0.5 * (x2 - x1), y1 + 0.5 * (y2 - y1), x2 - x1, y2 - y1


def intersection_and_union(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Return the areas (...) that boxes (..., 4), each paired with its other (..., 4), share and cover."""
    # Coordinate by coordinate: the gradient of ``prod`` over (width, height) would wait for the device.
    x1, y1, x2, y2 = full_precision(boxes).unbind(dim=-1)
    u1, v1, u2, v2 = full_precision(others).unbind(dim=-1)
    width = (torch.minimum(x2, u2) - torch.maximum(x1, u1)).clamp(min=0)
    height = (torch.minimum(y2, v2) - torch.maximum(y1, v1)).clamp(min=0)
    intersection = width * height
    return intersection, (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - intersection


def paired_iou(boxes: Tensor, others: Tensor, eps: float = 1e-6) -> Tensor:
    """Return the intersection over union (...) of boxes (..., 4), each with its other (..., 4).

    Args:
        boxes, others (Tensor): shapes that broadcast. Boxes that are inside out have signed areas.
        eps (float): lower bound of the union, in square units of the boxes.
    """
    with torch.autocast(boxes.device.type, enabled=False):
        intersection, union = intersection_and_union(boxes, others)
        return intersection / union.clamp(min=eps)


@torch.no_grad()
def centerness(points: Tensor, boxes: Tensor) -> Tensor:
    """Return 1 at the center of a box, falling to 0 at its border and 0 outside; no gradients.

    Paper: FCOS: Fully Convolutional One-Stage Object Detection, equation 3, https://arxiv.org/abs/1904.01355.

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


def within_padding(
    anchors: Sequence[Tensor], strides: Sequence[int], image_size: tuple[int, int], pad_divisor: int
) -> Tensor:
    """Return which anchors belong to cells of the image or of its own padding.

    In a batch with a larger image there are cells beyond; the published detectors leave their anchors out.

    Args:
        anchors: L tensors (R_l, 4), centered on their cells.
        strides: pixels a cell of each level.
        image_size: (height, width) without padding.
        pad_divisor: an image's own sides are padded to multiples of this.

    Returns:
        (R,) bool, for the R anchors of all levels.
    """
    ends = [math.ceil(side / pad_divisor) * pad_divisor for side in image_size]
    parts = []
    for boxes, stride in zip(anchors, strides, strict=True):
        x1, y1, x2, y2 = boxes.unbind(dim=1)
        # The margin of a hundredth of a pixel absorbs the rounding of the anchors' centers.
        bottom, right = (math.ceil(end / stride) * stride - 0.01 for end in ends)
        parts.append(((x1 + x2) / 2 < right) & ((y1 + y2) / 2 < bottom))
    return torch.cat(parts)


def object_slices(num_objects: int, num_boxes: int, pairs_at_once: int) -> Iterator[slice]:
    """Yield slices of the ground truth, in order: all its pairs with all boxes may not fit into memory.

    Args:
        num_objects: G; there is no slice without any.
        num_boxes: R.
        pairs_at_once: most pairs of box and ground truth in a slice, which has at least one ground truth.
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
    """Divide boxes into positives, negatives and those in between, by the published rule.

    Paper: Faster R-CNN, section 3.1.2, https://arxiv.org/abs/1506.01497. A box is positive if its IoU with
    some ground truth is at least ``positive_iou``, or if it is a low-quality match
    (:func:`low_quality_matches`), and negative if all its IoUs are below ``negative_iou``.

    Args:
        boxes: (R, 4), all of which take part.
        gt_boxes: (G, 4).
        positive_iou, negative_iou, low_quality_iou: thresholds in [0, 1].
        pairs_at_once: most pairs of box and ground truth held at a time, at least those of one ground truth.

    Returns:
        labels (R,) int64: 1 positive, 0 negative, -1 neither; index (R,) int64 of the ground truth that a
        positive belongs to: that of its low-quality match if there is one, else that of the highest IoU, the
        first of equals.
    """
    best = boxes.new_zeros(len(boxes))
    index = torch.zeros_like(best, dtype=torch.int64)
    low_quality = torch.full_like(index, -1)
    # A ground truth's matches depend on all boxes but on no other ground truth, so a few go at a time.
    at_once = max(1, pairs_at_once // max(1, len(boxes)))
    for start in range(0, len(gt_boxes), at_once):
        iou = paired_iou(gt_boxes[start : start + at_once, None], boxes)
        best_of_part, gt = iou.max(dim=0)
        index = torch.where(best_of_part > best, gt + start, index)
        best = torch.maximum(best, best_of_part)
        low_quality = torch.maximum(low_quality, low_quality_matches(iou, low_quality_iou, start))
    labels = torch.where(best >= positive_iou, 1, torch.where(best < negative_iou, 0, -1))
    has_low_quality = low_quality >= 0
    return labels.masked_fill(has_low_quality, 1), torch.where(has_low_quality, low_quality, index)


def low_quality_matches(iou: Tensor, min_iou: float, first_index: int = 0) -> Tensor:
    """Return the ground truth that each box is a low-quality match of, -1 where there is none.

    Paper: Faster R-CNN, section 3.1.2 (i), https://arxiv.org/abs/1506.01497, with the minimum of the
    published detectors: a ground truth whose best IoU is at least ``min_iou`` is matched with every box that
    attains this best IoU. Of several ground truths of a box the last one counts. A ground truth that overlaps
    no box has no match; in the published implementation it is matched with all of them if the minimum is 0.

    Args:
        iou (Tensor): (G, R).
        min_iou (float): in [0, 1].
        first_index (int): index of the first of these G ground truths.

    Returns:
        Tensor (R,) int64.
    """
    if not iou.numel():
        return torch.full((iou.shape[1],), -1, dtype=torch.int64, device=iou.device)
    best = iou.max(dim=1, keepdim=True).values
    matches = (iou == best) & (best >= min_iou) & (best > 0)
    index = torch.arange(first_index, first_index + len(iou), device=iou.device)
    return torch.where(matches, index[:, None], -1).max(dim=0).values
