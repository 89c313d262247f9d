"""OpenCV's bilinear resize as a Detectron2 augmentation."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from detectron2.data.transforms import Augmentation
from fvcore.transforms.transform import Transform


class CV2ResizeTransform(Transform):
    """Resize with OpenCV; coordinates are scaled by the exact ratio of new to old side.

    Args:
        height, width: size of the input in pixels.
        new_height, new_width: size of the output in pixels.
    """

    def __init__(self, height: int, width: int, new_height: int, new_width: int):
        super().__init__()
        self.height, self.width = height, width
        self.new_height, self.new_width = new_height, new_width

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """Resize (H, W) or (H, W, C), bilinear and without smoothing when shrinking."""
        return self._resize(img, cv2.INTER_LINEAR)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Resize a label map (H, W) to the nearest neighbour."""
        return self._resize(segmentation, cv2.INTER_NEAREST)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Scale points (n, 2) given as (x, y)."""
        scales = self.new_width / self.width, self.new_height / self.height
        return coords * np.array(scales, np.result_type(coords, np.float32))

    def inverse(self) -> CV2ResizeTransform:
        """Return the resize back to the old size."""
        return CV2ResizeTransform(self.new_height, self.new_width, self.height, self.width)

    def _resize(self, array: np.ndarray, interpolation: int) -> np.ndarray:
        if array.shape[:2] != (self.height, self.width):
            raise ValueError(f"resize from {(self.height, self.width)} got an array {array.shape}")
        return cv2.resize(array, (self.new_width, self.new_height), interpolation=interpolation)


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
            raise ValueError(f"sample_style must be 'choice' or 'range', not {sample_style!r}")
        if sample_style == "range" and len(lengths) not in (1, 2):
            raise ValueError(f"sample_style 'range' takes the smallest and the largest length, not {lengths}")
        self.short_edge_length, self.max_size, self.sample_style = lengths, max_size, sample_style

    def get_transform(self, image: np.ndarray) -> CV2ResizeTransform:
        """Draw a length from NumPy's global generator and return the resize of ``image`` (H, W, C)."""
        if self.sample_style == "range":
            length = np.random.randint(self.short_edge_length[0], self.short_edge_length[-1] + 1)
        else:
            length = np.random.choice(self.short_edge_length)
        height, width = image.shape[:2]
        scale = min(self.max_size / max(height, width), float(length) / min(height, width))
        new_height, new_width = (max(int(side * scale + 0.5), 1) for side in (height, width))
        return CV2ResizeTransform(height, width, new_height, new_width)
