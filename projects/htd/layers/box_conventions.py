"""What the corners of a box mean: ends of an area, or the first and the last pixel.

Boxes are XYXY in both conventions and always kept as areas. An inclusive box, which names its first and last
pixels a and b, covers the area from a to b + 1, so it is kept as (x1, y1, x2 + 1, y2 + 1). Widths, areas,
IoU, suppression and box coding "with + 1" are then the plain ones, and what reads boxes need not know. What
differs is what is done to the corners as numbers: clipping, scaling, and the test against the border.
"""

from __future__ import annotations

import torch
from torch import Tensor

from htd.layers.box_coder import clip_boxes, rescale_boxes


class ContinuousBoxes:
    """Corners are places between pixels, as in Detectron2."""

    def clip(self, boxes: Tensor, image_size: tuple[float, float]) -> Tensor:
        """Clip boxes (..., 4) to [0, width] x [0, height] of an image of ``(height, width)`` pixels."""
        return clip_boxes(boxes, image_size)

    def rescale(self, boxes: Tensor, old_size: tuple[float, float], new_size: tuple[float, float]) -> Tensor:
        """Bring boxes (..., 4) from a frame of ``old_size`` (height, width) to one of ``new_size``."""
        return rescale_boxes(boxes, old_size, new_size)

    def inside(self, boxes: Tensor, image_size: tuple[float, float], border: float = 0.0) -> Tensor:
        """Return which boxes (R, 4) reach less than ``border`` pixels beyond the image, (R,) bool.

        As published, the near sides may reach just ``border`` pixels beyond, the far sides may not.
        """
        height, width = image_size
        x1, y1, x2, y2 = boxes.unbind(dim=1)
        return (x1 >= -border) & (y1 >= -border) & (x2 < width + border) & (y2 < height + border)


class InclusiveBoxes(ContinuousBoxes):
    """Corners are the first and the last pixel of a box: the convention of the older published detectors.

    Where those clip, scale or compare a corner, they do so with the pixel's number. So a clipped box keeps
    at least one pixel, and a box whose numbers are scaled by s is not s times as wide.
    """

    def clip(self, boxes: Tensor, image_size: tuple[float, float]) -> Tensor:
        """Clip the first and last pixels of boxes (..., 4) to 0 ... width - 1 and 0 ... height - 1."""
        height, width = image_size
        return as_areas(clip_boxes(as_pixels(boxes), (height - 1, width - 1)))

    def rescale(self, boxes: Tensor, old_size: tuple[float, float], new_size: tuple[float, float]) -> Tensor:
        """Scale the first and last pixels' numbers of boxes (..., 4) by the ratio of the frames' sizes."""
        return as_areas(rescale_boxes(as_pixels(boxes), old_size, new_size))

    def inside(self, boxes: Tensor, image_size: tuple[float, float], border: float = 0.0) -> Tensor:
        """Return which boxes (R, 4) have all pixels less than ``border`` beyond the image, (R,) bool."""
        return super().inside(as_pixels(boxes), image_size, border)


def as_pixels(boxes: Tensor) -> Tensor:
    """Return the numbers of the first and last pixels (..., 4) of areas (..., 4)."""
    return torch.cat([boxes[..., :2], boxes[..., 2:] - 1], dim=-1)


def as_areas(pixels: Tensor) -> Tensor:
    """Return the areas (..., 4) that boxes (..., 4), given by first and last pixels, cover."""
    return torch.cat([pixels[..., :2], pixels[..., 2:] + 1], dim=-1)
