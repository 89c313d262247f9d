"""Mask targets: each ground-truth mask cut out by the RoIs that belong to it.

Symbols: P RoIs, G objects of one image of H x W pixels, M side of the target.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.structures import Instances, PolygonMasks
from torch import Tensor
from torchvision.ops import roi_align

from htd.layers import clip_boxes

# Pixels of bitmaps held in float32 at a time: 64 MiB.
_PIXELS_AT_ONCE = 2**24


def mask_targets(targets: Sequence[Instances], rois: Sequence[Instances], size: int) -> Tensor:
    """Return the targets of all RoIs.

    Paper: Mask R-CNN, section 3. The target is the part of the object's mask inside of the RoI; the
    published implementation reads it from bitmaps by RoIAlign.

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
        raise ValueError(
            "the model has a mask branch, but its training data hold no masks (gt_masks): set "
            "dataloader.train.dataset.masks=True and dataloader.train.mapper.mask_format=bitmask, or take a "
            "config without masks, such as configs/htc/htc_box_r50_fpn_1x.py or "
            "configs/tsd/tsd_faster_r50_fpn_1x.py"
        )


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
