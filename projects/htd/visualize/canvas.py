"""What all pictures share: a canvas, headings, colors, maps over images, and how parts are joined."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.utils.visualizer import VisImage, Visualizer

STRIP = 24  # height of a heading or legend, in pixels of the picture
_LEAST_SIDE, _GAP, _WHITE = 480, 4, (255, 255, 255)
_MAP_SHARE = 0.6  # of a map in what is shown of map and image


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


def registered_names(dataset_name: str) -> list[str]:
    """Return the class names of a data set in Detectron2's catalogs; none if it is not known there."""
    return list(MetadataCatalog.get(dataset_name).get("thing_classes") or ()) if dataset_name else []


def heat_map(
    values: np.ndarray,
    first: np.ndarray,
    step: np.ndarray,
    image_rgb: np.ndarray,
    highest: float | None = None,
) -> np.ndarray:
    """Lay a map over an image: black, red, yellow as it rises from 0 to its own maximum.

    Args:
        values: (h, w), at least 0.
        first: (x, y) of the first cell's place, in pixels of the image.
        step: from cell to cell in x and in y, in pixels of the image.
        image_rgb: (H, W, 3) uint8, as is what is returned.
        highest: the value that is yellow, instead of the maximum.
    """
    highest = max(values.max(), 1e-6) if highest is None else highest
    shade = np.uint8(255 * np.minimum(values / highest, 1))
    shade = _spread(shade, first, step, image_rgb, cv2.INTER_LINEAR)
    return _over(cv2.cvtColor(cv2.applyColorMap(shade, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB), image_rgb)


def color_map(colors: np.ndarray, step: np.ndarray, image_rgb: np.ndarray) -> np.ndarray:
    """Lay the cells of a map, each in its color, over an image.

    Args:
        colors: (h, w, 3) uint8; the first cell begins in the image's upper left corner.
        step: width and height of a cell, in pixels of the image.
        image_rgb: (H, W, 3) uint8, as is what is returned.
    """
    return _over(_spread(colors, step / 2, step, image_rgb, cv2.INTER_NEAREST), image_rgb)


def _spread(
    cells: np.ndarray, first: np.ndarray, step: np.ndarray, image_rgb: np.ndarray, interpolation: int
) -> np.ndarray:
    """Return cells (h, w, ...) uint8 at the size of an image; beyond them the outermost go on."""
    # Each pixel's middle, in cells.
    back = np.array(
        [[1 / step[0], 0, (0.5 - first[0]) / step[0]], [0, 1 / step[1], (0.5 - first[1]) / step[1]]]
    )
    flags = interpolation | cv2.WARP_INVERSE_MAP
    size = image_rgb.shape[1::-1]
    return cv2.warpAffine(cells, back, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)


def _over(colored: np.ndarray, image_rgb: np.ndarray) -> np.ndarray:
    gray = cv2.cvtColor(cv2.cvtColor(image_rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(colored, _MAP_SHARE, gray, 1 - _MAP_SHARE, 0)


def _keep_inside(drawing: VisImage) -> None:
    """Move labels that the right or the lower edge would cut to where they can be read."""
    renderer = drawing.canvas.get_renderer()
    for label in drawing.ax.texts:
        # The extent counts pixels of the enlarged picture from its lower left corner; the position those of
        # the image from its upper left corner.
        label.update_bbox_position_size(renderer)
        extent = label.get_bbox_patch().get_window_extent(renderer)
        beyond = max(0.0, extent.x1 - drawing.width * drawing.scale) / drawing.scale
        below = max(0.0, -extent.y0) / drawing.scale
        x, y = label.get_position()
        label.set_position((max(0.0, x - beyond), max(0.0, y - below)))
