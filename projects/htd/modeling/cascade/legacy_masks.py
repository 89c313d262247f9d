"""Mask targets and pasting of the older published detectors: whole pixels and OpenCV's resize.

Boxes are areas, see :mod:`htd.layers.boxes`; here they are turned into first and last pixels, and
those are truncated to whole numbers. Symbols: P RoIs or detections, H x W pixels of an image, M side of a
mask.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from torch import Tensor

from htd.layers import InclusiveBoxes, as_pixels
from htd.modeling.cascade.mask_targets import check_masks


class LegacyMaskTargets:
    """Cuts the object's bitmap at whole pixels and resizes it with OpenCV (published TSD); zeros and ones."""

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
