"""OpenCV's bilinear resize as a Detectron2 augmentation, with boxes in the convention of the mapper."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from detectron2.data.transforms import AugInput, Augmentation
from fvcore.transforms.transform import Transform

from htd.layers import ContinuousBoxes, InclusiveBoxes, as_areas, as_pixels


class ResizeCV2(Augmentation):
    """Resize an image, keeping its ratio, so that it fits into (short side, long side).

    The counterpart of Detectron2's ``ResizeShortestEdge``, which resizes with Pillow and so smooths
    when it shrinks. The published models were trained and tested with OpenCV's bilinear rule on
    uint8 images; the scale is min(long / longer side, short / shorter side) and a new side is
    int(side * scale + 0.5).

    Args:
        short_edge_length: one length in pixels, or several.
        max_size: largest length of the longer side in pixels.
        sample_style: with several lengths, ``"choice"`` takes one of them, ``"range"`` a random
            integer between the first and the last, both included.
    """

    def __init__(self, short_edge_length: int | Sequence[int], max_size: int, sample_style: str = "choice"):
        super().__init__()
        lengths = [short_edge_length] if isinstance(short_edge_length, int) else list(short_edge_length)
        if sample_style not in ("choice", "range"):
            raise ValueError(f"sample_style is {sample_style!r}; it has to be 'choice' or 'range'")
        if sample_style == "range" and len(lengths) not in (1, 2):
            raise ValueError(f"sample_style 'range' takes the smallest and the largest length, not {lengths}")
        self.short_edge_length, self.max_size, self.sample_style = lengths, max_size, sample_style

    def __call__(self, aug_input: AugInput) -> Transform:
        """Resize an input in place; one of :class:`htd.data.DetectionMapper` says how boxes are moved."""
        transform = self.get_transform(aug_input.image, getattr(aug_input, "box_convention", None))
        aug_input.transform(transform)
        return transform

    def get_transform(
        self, image: np.ndarray, convention: ContinuousBoxes | None = None
    ) -> CV2ResizeTransform:
        """Draw a length from NumPy's global generator and return the resize of ``image`` (H, W, C)."""
        height, width = image.shape[:2]
        if self.sample_style == "range":
            length = np.random.randint(self.short_edge_length[0], self.short_edge_length[-1] + 1)
        else:
            length = np.random.choice(self.short_edge_length)
        scale = min(self.max_size / max(height, width), float(length) / min(height, width))
        new_height, new_width = (max(int(side * scale + 0.5), 1) for side in (height, width))
        if isinstance(convention, InclusiveBoxes):
            return InclusiveResizeTransform(height, width, new_height, new_width, scale=scale)
        return CV2ResizeTransform(height, width, new_height, new_width)


class CV2ResizeTransform(Transform):
    """Resize with OpenCV; coordinates are scaled by the exact ratio of new to old side, in pixels."""

    def __init__(self, height: int, width: int, new_height: int, new_width: int):
        super().__init__()
        self.height, self.width = height, width
        self.new_height, self.new_width = new_height, new_width

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """Resize (H, W) or (H, W, C), bilinear and without smoothing when shrinking."""
        return self._resize(img, cv2.INTER_LINEAR)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Resize a label map (H, W) to the nearest neighbor."""
        return self._resize(segmentation, cv2.INTER_NEAREST)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Scale points (n, 2) given as (x, y)."""
        scales = self.new_width / self.width, self.new_height / self.height
        return coords * np.array(scales, np.result_type(coords, np.float32))

    def _resize(self, array: np.ndarray, interpolation: int) -> np.ndarray:
        if array.shape[:2] != (self.height, self.width):
            raise ValueError(f"resize from {(self.height, self.width)} got an array {array.shape}")
        return cv2.resize(array, (self.new_width, self.new_height), interpolation=interpolation)


class InclusiveResizeTransform(CV2ResizeTransform):
    """Resize that multiplies the numbers of a box's first and last pixels by one factor.

    A box from pixel a to pixel b then covers (b - a) * scale + 1 pixels, where the area from a to b + 1
    would become (b - a + 1) * scale of them. ``scale`` is that of both axes, whatever the new sides are
    rounded to.
    """

    def __init__(self, height: int, width: int, new_height: int, new_width: int, *, scale: float):
        super().__init__(height, width, new_height, new_width)
        self.scale = scale

    def apply_box(self, box: np.ndarray) -> np.ndarray:
        """Scale the first and last pixels of boxes (n, 4), XYXY areas; the result is not clipped."""
        areas = torch.as_tensor(np.asarray(box, np.float64).reshape(-1, 4))
        return as_areas(as_pixels(areas) * self.scale).numpy()
