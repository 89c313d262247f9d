"""Drawing of a toy layout at a given strength: the image, the label map of its objects, their annotations.

A body with thin limbs fixes an object's box; a glyph somewhere on the body tells its class. Strength
0 gives ordinary shapes (outline and glyph agree), strength 1 round bodies whose class stands off the
center in the glyph alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from htd.data.toy.layout import CATEGORIES, TEXTURES, Background, ToyLayout, ToyObject

HEAP_LABEL = 255
STUFF_OFFSET, UNLABELED = 91, 255
_ENLARGEMENT = 4  # of masks, for tracing
_ANGLES = np.arange(48) * (2 * np.pi / 48)
_BODY_SHARE, _GLYPH_SHIFT, _MIN_GLYPH = 0.27, 0.35, 6.0
_NOISE, _SHIFT_BITS = 6.0, 4

# Corners in [-1, 1], y down; each is seen whole from the origin and survives a horizontal flip.
_CORNERS = {
    "triangle": [(0, -1), (1, 1), (-1, 1)],
    "plus": [
        (-0.36, -1), (0.36, -1), (0.36, -0.36), (1, -0.36), (1, 0.36), (0.36, 0.36),
        (0.36, 1), (-0.36, 1), (-0.36, 0.36), (-1, 0.36), (-1, -0.36), (-0.36, -0.36),
    ],
    "bowtie": [(-1, -1), (0, -0.22), (1, -1), (1, 1), (0, 0.22), (-1, 1)],
    "star": [
        (0, -1), (0.25, -0.25), (1, 0), (0.25, 0.25), (0, 1), (-0.25, 0.25), (-1, 0), (-0.25, -0.25),
    ],
    "square": [(-1, -1), (1, -1), (1, 1), (-1, 1)],
}  # fmt: skip


@dataclass(frozen=True)
class ToyImage:
    """Pixels (H, W, 3) uint8, RGB; labels (H, W) uint8: 0, number of the object from 1, ``HEAP_LABEL``."""

    pixels: np.ndarray
    labels: np.ndarray


def draw(layout: ToyLayout, strength: float) -> ToyImage:
    """Draw a layout, only once: its noise generator is used up. A later object hides an earlier one."""
    pixels = _draw_background(layout.background, layout.height, layout.width)
    labels = np.zeros((layout.height, layout.width), np.uint8)
    for member in layout.heap:
        _paint(pixels, labels, member, strength, HEAP_LABEL)
    for label, item in enumerate(layout.objects, start=1):
        _paint(pixels, labels, item, strength, label)
    pixels += _NOISE * layout.noise.standard_normal(pixels.shape, np.float32)
    return ToyImage(np.clip(np.rint(pixels), 0, 255).astype(np.uint8), labels)


def glyph_center(item: ToyObject, strength: float) -> np.ndarray:
    """Return the center (x, y) in pixels of an object's glyph, the place of its class evidence."""
    center, half = _body(item, strength)
    # Away from the box's center: a body at the left of its box has the glyph at its own left.
    return center + strength * _GLYPH_SHIFT * half * (2 * item.body_place - 1)


@cache
def _radii(shape: str) -> np.ndarray:
    """Return the distances (48,) from the origin to the outline of a class, along ``_ANGLES``."""
    if shape == "disc":
        return np.ones(len(_ANGLES))
    corners = np.array(_CORNERS[shape], float)
    edges = np.roll(corners, -1, axis=0) - corners
    rays = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)
    # Ray t * d meets edge p + u * e where t = cross(p, e) / cross(d, e), u = cross(p, d) / cross(d, e).
    divisor = rays[:, :1] * edges[:, 1] - rays[:, 1:] * edges[:, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = (corners[:, 0] * edges[:, 1] - corners[:, 1] * edges[:, 0]) / divisor
        place = (corners[:, 0] * rays[:, 1:] - corners[:, 1] * rays[:, :1]) / divisor
    hit = (distance > 0) & (place >= -1e-9) & (place <= 1 + 1e-9)
    return np.where(hit, distance, np.inf).min(axis=1)


def _outline(radii: np.ndarray, center: np.ndarray, half: np.ndarray, angle: float = 0.0) -> np.ndarray:
    points = radii[:, None] * np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return center + points @ turn * half


def _body(item: ToyObject, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Return center (x, y) and half-sizes (a, b) of the body, in pixels."""
    x, y, w, h = item.box
    half = ((1 - strength) * np.array([w, h]) / 2 + strength * _BODY_SHARE * min(w, h)) - 0.5
    room = np.array([w - 1, h - 1]) - 2 * half
    return np.array([x, y]) + half + item.body_place * room, half


def _fill(mask: np.ndarray, points: np.ndarray) -> None:
    fixed = np.rint(points * 2**_SHIFT_BITS).astype(np.int32)
    cv2.fillPoly(mask, [fixed], 1, cv2.LINE_8, _SHIFT_BITS)


def _paint(pixels: np.ndarray, labels: np.ndarray, item: ToyObject, strength: float, label: int) -> None:
    """Paint body, limbs and glyph of one object over what is there."""
    shape = CATEGORIES[item.category]
    center, half = _body(item, strength)
    radii = (1 - strength) * _radii(shape) + strength
    body = np.zeros(labels.shape, np.uint8)
    _fill(body, _outline(radii, center, half))
    if strength > 0:
        _draw_limbs(body, item, center, thickness=3 if strength <= 0.5 else 2)
    glyph = np.zeros(labels.shape, np.uint8)
    radius = max(_MIN_GLYPH, min(0.7 * half.min(), 0.26 * min(item.box[2:])))
    _fill(glyph, _outline(_radii(shape), glyph_center(item, strength), np.full(2, radius), item.glyph_angle))
    for mask, color in ((body, item.color), (glyph, item.glyph_color)):
        inside = mask.astype(bool)
        pixels[inside] = color
        labels[inside] = label


def _draw_limbs(mask: np.ndarray, item: ToyObject, center: np.ndarray, thickness: int) -> None:
    """Draw a line from the body's center to one point on each side of the box."""
    x, y, w, h = item.box
    across, down = x + 1 + item.limb_ends * (w - 3), y + 1 + item.limb_ends * (h - 3)
    ends = [(across[0], y + 1), (across[1], y + h - 2), (x + 1, down[2]), (x + w - 2, down[3])]
    start = tuple(int(value) for value in np.rint(center))
    for end in ends:
        cv2.line(mask, start, tuple(int(round(value)) for value in end), 1, thickness, cv2.LINE_8)


def _draw_background(background: Background, height: int, width: int) -> np.ndarray:
    """Return the texture as (H, W, 3) float32."""
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    cosine, sine = np.cos(background.angle), np.sin(background.angle)
    along = (columns * cosine + rows * sine) / background.period + background.phase
    aside = (rows * cosine - columns * sine) / background.period + background.phase
    if background.texture == "gradient":
        share = (along - along.min()) / (along.max() - along.min())
    elif background.texture == "stripes":
        share = along % 1 < 0.5
    elif background.texture == "checks":
        share = (along % 1 < 0.5) ^ (aside % 1 < 0.5)
    elif background.texture == "dots":
        share = (along % 1 - 0.5) ** 2 + (aside % 1 - 0.5) ** 2 < 0.06
    else:
        share = cv2.resize(background.grid, (width, height), interpolation=cv2.INTER_LINEAR)
    first, second = background.colors.astype(np.float32)
    return first + np.asarray(share, np.float32)[..., None] * (second - first)


def annotations(layout: ToyLayout, image: ToyImage) -> list[dict]:
    """Return the COCO annotations of one image, without ``id`` and ``image_id``.

    Boxes [x, y, w, h] and masks are those of the visible pixels. Objects carry polygons; the crowd
    region is one uncompressed RLE with ``iscrowd`` 1.
    """
    entries = []
    for label, item in [*enumerate(layout.objects, start=1), *((HEAP_LABEL, x) for x in layout.heap[:1])]:
        mask = (image.labels == label).astype(np.uint8)
        if mask.any():
            crowd = int(label == HEAP_LABEL)
            entries.append(
                {
                    "category_id": item.category,
                    "bbox": [float(value) for value in cv2.boundingRect(mask)],
                    "area": float(mask.sum()),
                    "segmentation": run_lengths(mask) if crowd else polygons(mask),
                    "iscrowd": crowd,
                }
            )
    return entries


def stuff_map(layout: ToyLayout, image: ToyImage) -> np.ndarray:
    """Return the semantic map (H, W) uint8 in the COCO-Stuff convention (pixel = category id - 1).

    Objects carry their category id - 1, the background 91 + its texture; the crowd region and the
    left strip of some images are 255 (no label).
    """
    values = np.full(256, UNLABELED, np.uint8)
    values[0] = STUFF_OFFSET + TEXTURES.index(layout.background.texture)
    for label, item in enumerate(layout.objects, start=1):
        values[label] = item.category - 1
    stuff = values[image.labels]
    stuff[:, : layout.background.strip] = UNLABELED
    return stuff


def polygons(mask: np.ndarray) -> list[list[float]]:
    """Trace a mask (H, W) uint8 as COCO polygons.

    The contour that OpenCV returns runs through pixel centers and so loses half a pixel on each
    side, a tenth of a small object's area; traced on the mask enlarged four times it loses an eighth.
    """
    size = (mask.shape[1] * _ENLARGEMENT, mask.shape[0] * _ENLARGEMENT)
    large = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [((contour.reshape(-1) + 0.5) / _ENLARGEMENT).tolist() for contour in contours]


def run_lengths(mask: np.ndarray) -> dict:
    """Return a mask (H, W) as an uncompressed COCO RLE (columns first, beginning with zeros)."""
    flat = mask.T.reshape(-1).astype(np.int8)
    changes = np.flatnonzero(np.diff(flat, prepend=0))
    counts = np.diff(changes, prepend=0, append=mask.size)
    return {"size": list(mask.shape), "counts": [int(count) for count in counts]}
