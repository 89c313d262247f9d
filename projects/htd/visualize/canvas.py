"""What all pictures share: an enlarged canvas, headings, colors, and how parts are put together."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np
from detectron2.utils.visualizer import VisImage, Visualizer

STRIP = 24  # height of a heading or legend, in pixels of the picture
_LEAST_SIDE, _GAP, _WHITE = 480, 4, (255, 255, 255)


def open_canvas(image_rgb: np.ndarray) -> Visualizer:
    """Return something to draw on in the frame of an image (H, W, 3) uint8; small images are enlarged."""
    return Visualizer(image_rgb, scale=max(1.0, _LEAST_SIDE / max(image_rgb.shape[:2])))


def finish(canvas: Visualizer, heading: str) -> np.ndarray:
    """Return what was drawn, (H', W', 3) uint8, with a heading above it and all labels inside."""
    _keep_inside(canvas.output)
    drawn = canvas.output.get_image()
    strip = np.zeros((STRIP, drawn.shape[1], 3), np.uint8)
    write(strip, heading, 6)
    return np.concatenate([strip, drawn], axis=0)


def write(strip: np.ndarray, text: str, x: int) -> int:
    """Write into a strip of height STRIP, in place, from x on; return where the text ends."""
    font, size = cv2.FONT_HERSHEY_SIMPLEX, 0.5
    cv2.putText(strip, text, (x, 17), font, size, _WHITE, 1, cv2.LINE_AA)
    return x + cv2.getTextSize(text, font, size, 1)[0][0]


def beside(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Join parts of equal height from left to right, with a white gap between them."""
    gap = np.full((parts[0].shape[0], _GAP, 3), 255, np.uint8)
    return np.concatenate([piece for part in parts for piece in (part, gap)][:-1], axis=1)


def above(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Join parts of equal width from top to bottom, with a white gap between them."""
    return beside([part.swapaxes(0, 1) for part in parts]).swapaxes(0, 1)


def class_name(number: int, names: Sequence[str]) -> str:
    """Return the name of a class, its number where the names end before it."""
    return names[number] if number < len(names) else str(number)


def class_color(number: int) -> tuple[float, float, float]:
    """Return a bright color of its own for each class, RGB in 0..1."""
    # Steps of the golden ratio keep the hues of neighboring classes far apart.
    return colorsys.hsv_to_rgb((0.1 + 0.618034 * number) % 1, 0.75, 1.0)


def _keep_inside(drawing: VisImage) -> None:
    """Move labels that the right or the lower edge would cut to where they can be read."""
    renderer = drawing.canvas.get_renderer()
    for label in drawing.ax.texts:
        # In pixels of the enlarged image from its lower left corner; positions are in those of the image
        # from its upper left one.
        label.update_bbox_position_size(renderer)
        extent = label.get_bbox_patch().get_window_extent(renderer)
        beyond = max(0.0, extent.x1 - drawing.width * drawing.scale) / drawing.scale
        below = max(0.0, -extent.y0) / drawing.scale
        x, y = label.get_position()
        label.set_position((max(0.0, x - beyond), max(0.0, y - below)))
