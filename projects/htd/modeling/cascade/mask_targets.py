"""Mask targets, cut out of the ground truth by the RoIs that belong to it; and pasting by whole pixels.

The published detectors of today read targets by RoIAlign; the older ones cut and paste at whole pixels and
resize with OpenCV. Boxes are areas, see :mod:`htd.layers.boxes`; where whole pixels count, they are turned
into first and last pixels, truncated to whole numbers.

Symbols: P RoIs or detections, G objects of one image of H x W pixels, M side of the target or mask.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from torch import Tensor
from torchvision.ops import roi_align

from htd.layers import InclusiveBoxes, as_pixels, clip_boxes

# Pixels of bitmaps held in float32 at a time: 64 MiB.
_PIXELS_AT_ONCE = 2**24


def mask_targets(targets: Sequence[Instances], rois: Sequence[Instances], size: int) -> Tensor:
    """Return the targets of all RoIs.

    Paper: Mask R-CNN, section 3, https://arxiv.org/abs/1703.06870. The target is the part of the object's
    mask inside of the RoI; the published implementation reads it from bitmaps by RoIAlign.

    Args:
        targets: of each image, with ``gt_masks`` where there are objects.
        rois: of each image, with ``proposal_boxes`` and ``gt_index``, XYXY pixels of the resized input.
        size: M.

    Returns:
        Tensor (P, M, M) bool.

    Raises:
        ValueError: a target with objects has no ``gt_masks``.
    """
    found = [_of_image(target, r, size) for target, r in zip(targets, rois, strict=True)]
    return torch.cat(found)


def _of_image(target: Instances, rois: Instances, size: int) -> Tensor:
    boxes = clip_boxes(rois.proposal_boxes.tensor, target.image_size)
    if not len(boxes):
        # Detectron2's mapper gives images without objects no masks.
        return torch.zeros(0, size, size, dtype=torch.bool, device=boxes.device)
    check_masks(target)
    masks, index = target.gt_masks, rois.gt_index
    if isinstance(masks, PolygonMasks):
        return masks[index].crop_and_resize(boxes, size).to(boxes.device)
    return crop_bitmaps(masks.tensor, index, boxes, size)


def check_masks(target: Instances) -> None:
    """Make sure that the ground truth of an image with objects has masks.

    Raises:
        ValueError: it has none.
    """
    if not target.has("gt_masks"):
        raise ValueError("the ground truth has objects but no gt_masks")


def crop_bitmaps(bitmaps: Tensor, index: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Return each box's part of its bitmap by RoIAlign, in M x M cells.

    Detectron2's ``BitMasks.crop_and_resize`` wants a bitmap of its own for each box, all of them in
    float32; here the bitmap of an object serves all of its boxes, a few objects at a time.

    Args:
        bitmaps: (G, H, W) bool.
        index: (P,) int64, the bitmap of each box.
        boxes: (P, 4) in pixels of the bitmaps.
        size: M.

    Returns:
        Tensor (P, M, M) bool.
    """
    out = torch.zeros(len(boxes), size, size, dtype=torch.bool, device=boxes.device)
    at_once = max(1, _PIXELS_AT_ONCE // max(1, bitmaps[0].numel()))
    for start in range(0, len(bitmaps), at_once):
        part = bitmaps[start : start + at_once, None].float()
        rows = ((index >= start) & (index < start + at_once)).nonzero()[:, 0]
        regions = torch.cat([(index[rows, None] - start).to(boxes.dtype), boxes[rows]], dim=1).float()
        cut = roi_align(part, regions, size, spatial_scale=1.0, sampling_ratio=0, aligned=True)
        out[rows] = cut[:, 0] >= 0.5
    return out


class LegacyMaskTargets:
    """Cuts the object's bitmap at whole pixels and resizes it with OpenCV; zeros and ones."""

    def __call__(self, targets: Sequence[Instances], rois: Sequence[Instances], size: int) -> Tensor:
        """Return the targets (P, M, M) bool of all RoIs; arguments and errors as in `mask_targets`."""
        found = [self._of_image(t, r, size) for t, r in zip(targets, rois, strict=True)]
        return torch.cat(found)

    @staticmethod
    def _of_image(target: Instances, rois: Instances, size: int) -> Tensor:
        boxes = rois.proposal_boxes.tensor
        if not len(boxes):
            return torch.zeros(0, size, size, dtype=torch.bool, device=boxes.device)
        check_masks(target)
        masks = target.gt_masks
        if isinstance(masks, PolygonMasks):
            masks = BitMasks.from_polygon_masks(masks, *target.image_size)
        bitmaps, index = masks.tensor.cpu().numpy().astype(np.uint8), rois.gt_index.tolist()
        corners = whole_pixels(boxes, target.image_size)
        cut = [
            _resize(bitmaps[i][y : y + h, x : x + w], size, size)
            for i, (x, y, w, h) in zip(index, corners, strict=True)
        ]
        return torch.from_numpy(np.stack(cut) > 0).to(boxes.device)


def legacy_paste(masks: Tensor, boxes: Boxes, image_shape: tuple[int, int], threshold: float) -> Tensor:
    """Turn masks in the frames of their boxes into bitmaps of the image.

    Args:
        masks: (P, M, M), probabilities.
        boxes: P areas in pixels of the image.
        image_shape: (H, W).
        threshold: pixels of a larger probability belong to the object.

    Returns:
        Tensor (P, H, W) bool.
    """
    bitmaps = torch.zeros(len(masks), *image_shape, dtype=torch.bool)
    soft = masks.detach().float().cpu().numpy()
    for bitmap, mask, (x, y, w, h) in zip(
        bitmaps, soft, whole_pixels(boxes.tensor, image_shape), strict=True
    ):
        bitmap[y : y + h, x : x + w] = torch.from_numpy(_resize(mask, h, w) > threshold)
    return bitmaps.to(masks.device)


def whole_pixels(boxes: Tensor, image_size: tuple[int, int]) -> list[list[int]]:
    """Return (x, y, width, height) of boxes (P, 4), corners truncated; at least one pixel of the image."""
    pixels = as_pixels(InclusiveBoxes().clip(boxes.detach(), image_size)).long()
    first, last = pixels[:, :2], pixels[:, 2:]
    return torch.cat([first, (last - first + 1).clamp(min=1)], dim=1).tolist()


def _resize(array: np.ndarray, height: int, width: int) -> np.ndarray:
    return cv2.resize(array, (width, height), interpolation=cv2.INTER_LINEAR)
