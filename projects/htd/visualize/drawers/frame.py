"""What drawers share: names of detections, the image's frame, maps laid over the image.

Boxes are XYXY. Models compute in pixels of the network's input, pictures are in those of the image.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from htd.layers import ContinuousBoxes
from htd.visualize.canvas import class_name
from htd.visualize.drawers.base import Scene

_MAP_SHARE = 0.6  # of a map in what is shown of map and image


def label(scene: Scene, detection: int) -> str:
    """Return class and score of a detection."""
    found = scene.detections[detection]
    return f"{class_name(int(found.pred_classes), scene.class_names)} {float(found.scores):.2f}"


def in_image(boxes: Tensor, scene: Scene, convention: ContinuousBoxes | None = None) -> Tensor:
    """Bring boxes (n, 4) from the network's input to the frame of the image, on the CPU.

    Args:
        boxes: (n, 4).
        scene: names both frames.
        convention: of the model's boxes, see :mod:`htd.layers.boxes`; continuous if None.
    """
    rescale = (convention or ContinuousBoxes()).rescale
    return rescale(boxes, scene.network_size, scene.image_rgb.shape[:2]).float().cpu()


def points_in_image(points: Tensor, scene: Scene) -> Tensor:
    """Bring points (..., 2) from the network's input to the frame of the image, on the CPU."""
    (height, width), (rows, columns) = scene.image_rgb.shape[:2], scene.network_size
    return points.float().cpu() * torch.tensor([width / columns, height / rows])


def shown_once(origins: Sequence[int], scene: Scene) -> dict[int, int]:
    """Return, for what the best detections come from, the best of its detections; ``max_regions`` at most.

    Args:
        origins: for each detection, best first, the number of the prior or RoI that it comes from. One may
            be detected as several classes.
        scene: with ``max_regions``.
    """
    best: dict[int, int] = {}
    for detection, origin in enumerate(origins):
        best.setdefault(origin, detection)
    return dict(list(best.items())[: scene.max_regions])


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
        image_rgb: (H, W, 3) uint8.
        highest: the value that is yellow, instead of the maximum.

    Returns:
        (H, W, 3) uint8.
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
        image_rgb: (H, W, 3) uint8.

    Returns:
        (H, W, 3) uint8.
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
