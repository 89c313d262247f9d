"""Where the objects of a toy image stand and what they look like, drawn before any pixel exists.

Every number is drawn from the seed and the image index alone, never from the strength or from
pixels, so one seed gives the same layout at every strength.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CATEGORIES = {1: "disc", 2: "triangle", 4: "plus", 5: "bowtie", 9: "star", 12: "square"}
TEXTURES = ("gradient", "stripes", "checks", "dots", "noise")

_EMPTY_SHARE, _CROWD_SHARE, _STRIP_SHARE = 0.04, 0.08, 0.3
_MIN_SIDE, _MAX_OVERLAP, _TRIES, _HEAP_SIZE = 26, 0.15, 12, 8


@dataclass(frozen=True)
class ToyObject:
    """One object of one class."""

    category: int  # dataset category id, a key of ``CATEGORIES``
    box: tuple[int, int, int, int]  # (x, y, width, height) in pixels; the drawn object reaches all four sides
    color: np.ndarray  # RGB in 0..255
    glyph_color: np.ndarray  # RGB in 0..255
    glyph_angle: float  # rotation of the glyph in radians
    body_place: np.ndarray  # (2,) in 0..1, where in the free room of the box the body stands
    limb_ends: np.ndarray  # (4,) in 0..1, where on the top, bottom, left and right side a limb ends


@dataclass(frozen=True)
class Background:
    """A texture of two colors; ``strip`` is the width in pixels of its unlabeled left strip."""

    texture: str
    colors: np.ndarray
    angle: float
    period: float
    phase: float
    grid: np.ndarray
    strip: int


@dataclass(frozen=True)
class ToyLayout:
    """What is drawn on one image; ``heap`` is one crowd region, empty in most images."""

    height: int
    width: int
    background: Background
    objects: tuple[ToyObject, ...]
    heap: tuple[ToyObject, ...]
    noise: np.random.Generator


def draw_layout(seed: int, index: int) -> ToyLayout:
    """Draw the layout of image ``index``, whatever the number of images.

    Sides are multiples of 16 in 128..192; boxes overlap by at most 15 % of the smaller one; ``noise`` is the
    generator to draw pixel noise from.
    """
    rng = np.random.default_rng([seed, index])
    height, width = (int(side) for side in 16 * rng.integers(8, 13, 2))
    background = _background(rng, width)
    count = int(rng.integers(1, 6)) * int(rng.random() >= _EMPTY_SHARE)
    with_heap = rng.random() < _CROWD_SHARE
    taken: list[tuple[int, int, int, int]] = []
    base = background.colors[0]
    heap = _heap(rng, base, height, width, taken) if with_heap else ()
    objects = []
    for _ in range(count):
        box = _free_box(rng, height, width, taken)
        if box is not None:
            taken.append(box)
            objects.append(_object(rng, base, int(rng.choice(list(CATEGORIES))), box))
    return ToyLayout(height, width, background, tuple(objects), heap, rng)


def _background(rng: np.random.Generator, width: int) -> Background:
    base = rng.uniform(50, 205, 3)
    other = np.clip(base + rng.choice([-1, 1]) * rng.uniform(12, 40, 3), 0, 255)
    return Background(
        texture=str(rng.choice(TEXTURES)),
        colors=np.stack([base, other]),
        angle=float(rng.uniform(0, np.pi)),
        period=float(rng.uniform(8, 24)),
        phase=float(rng.uniform(0, 1)),
        grid=rng.random((6, 6)),
        strip=int(rng.uniform(0.05, 0.15) * width) * int(rng.random() < _STRIP_SHARE),
    )


def _object(rng: np.random.Generator, base: np.ndarray, category: int, box) -> ToyObject:
    shift = rng.choice([-1, 1], 3) * rng.uniform(55, 120, 3)
    color = base + np.where((base + shift < 0) | (base + shift > 255), -shift, shift)
    contrast = rng.uniform(110, 128, 3)
    return ToyObject(
        category=category,
        box=box,
        color=np.clip(color, 0, 255),
        glyph_color=np.clip(color + np.where(color < 128, contrast, -contrast), 0, 255),
        glyph_angle=float(rng.uniform(-0.2, 0.2)),
        body_place=rng.random(2),
        limb_ends=rng.random(4),
    )


def _heap(rng: np.random.Generator, base: np.ndarray, height: int, width: int, taken: list):
    """Return eight small objects of one class on a heap, and mark its box as taken."""
    side = int(rng.integers(48, 65))
    x, y = int(rng.integers(0, width - side + 1)), int(rng.integers(0, height - side + 1))
    taken.append((x, y, side, side))
    category = int(rng.choice(list(CATEGORIES)))
    members = []
    for _ in range(_HEAP_SIZE):
        size = int(rng.integers(18, 25))
        left, top = rng.integers(0, side - size + 1, 2)
        members.append(_object(rng, base, category, (x + int(left), y + int(top), size, size)))
    return tuple(members)


def _free_box(rng: np.random.Generator, height: int, width: int, taken: list):
    """Return a box (x, y, w, h) that hardly overlaps the taken ones, or None after twelve tries."""
    for _ in range(_TRIES):
        side = np.exp(rng.uniform(np.log(30), np.log(0.62 * min(height, width))))
        ratio = np.exp(rng.uniform(-0.4, 0.4))
        w = int(np.clip(side * ratio, _MIN_SIDE, width - 2))
        h = int(np.clip(side / ratio, _MIN_SIDE, height - 2))
        x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
        if all(_overlap((x, y, w, h), other) <= _MAX_OVERLAP for other in taken):
            return x, y, w, h
    return None


def _overlap(first, second) -> float:
    """Return the intersection of two boxes (x, y, w, h) as a share of the smaller one."""
    sides = [
        min(first[axis] + first[axis + 2], second[axis] + second[axis + 2]) - max(first[axis], second[axis])
        for axis in (0, 1)
    ]
    smaller = min(first[2] * first[3], second[2] * second[3])
    return max(sides[0], 0) * max(sides[1], 0) / smaller
