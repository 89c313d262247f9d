"""Inputs that the benchmarks share."""

from __future__ import annotations

import math

import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from torch import Tensor

IMAGE, STRIDES = (800, 1333), (4, 8, 16, 32)
OBJECTS = 8  # of the synthetic targets, an image
CORNERS = 24  # of the polygon around an object


def random_regions(
    count: int, seed: int = 0, largest: float = 1800.0, image: tuple[int, int] = IMAGE
) -> tuple[Tensor, Tensor]:
    """Return boxes (count, 4) of 12 to ``largest`` pixels in an image, and their levels by the usual rule."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.rand(count, 4, generator=generator)
    side = torch.exp(math.log(12) + spread[:, 0] * math.log(largest / 12))
    ratio = torch.exp((spread[:, 1] - 0.5) * 1.4)
    width, height = (side * ratio).clamp(max=image[1]), (side / ratio).clamp(max=image[0])
    x, y = spread[:, 2] * (image[1] - width), spread[:, 3] * (image[0] - height)
    levels = torch.floor(torch.log2((width * height).sqrt() / 56 + 1e-6)).clamp(0, 3).long()
    return torch.stack([x, y, x + width, y + height], dim=1), levels


def synthetic_input(size: tuple[int, int], masks: str = "bitmask") -> dict:
    """Return an image (3, height, width) of noise with elliptic objects of class 0, as a model takes it.

    Args:
        size: (height, width).
        masks: format of ``gt_masks``, ``"bitmask"`` or ``"polygon"``.

    Returns:
        ``image``, ``height``, ``width``, ``instances`` with ``gt_boxes``, ``gt_classes`` and ``gt_masks``,
        and ``sem_seg`` (height, width), class 0 everywhere.
    """
    height, width = size
    corner = torch.rand(OBJECTS, 2) * 0.7
    boxes = torch.cat([corner, corner + 0.05 + torch.rand(OBJECTS, 2) * 0.25], dim=1)
    instances = Instances(size)
    instances.gt_boxes = Boxes(boxes * torch.tensor([width, height, width, height]))
    instances.gt_classes = torch.zeros(OBJECTS, dtype=torch.int64)
    polygons = PolygonMasks([[_ellipse(box)] for box in instances.gt_boxes.tensor.numpy()])
    if masks == "polygon":
        instances.gt_masks = polygons
    else:
        instances.gt_masks = BitMasks.from_polygon_masks(polygons, height, width)
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    semantic = torch.zeros(size, dtype=torch.int64)
    return {
        "image": image,
        "height": height,
        "width": width,
        "instances": instances,
        "sem_seg": semantic,
    }


def _ellipse(box: np.ndarray) -> np.ndarray:
    """Return the corners x, y, x, y, ... of a polygon along the ellipse in a box."""
    angle = np.arange(CORNERS) * 2 * math.pi / CORNERS
    around = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return ((box[:2] + box[2:]) / 2 + around * (box[2:] - box[:2]) / 2).reshape(-1).astype(np.float64)
