"""Regions of an image close up, with boxes, points and outlines on them, bars and a legend beneath."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from detectron2.utils.visualizer import Visualizer
from matplotlib.colors import to_rgb

from htd.visualize.canvas import STRIP, above, beside, finish, write

SIDE = 360  # of a close-up, in pixels of the picture
_CONTEXT = 1.3  # the side of what is shown around a region, in sides of the region
_LEAST = 16  # pixels of the image that are shown at least
_DOT, _SAMPLE, _BETWEEN = 4, 36, 16
_BAR_FROM, _BAR_TO = 140, SIDE - 54  # in pixels of the picture, where the longest bar begins and ends


@dataclass(frozen=True)
class Style:
    """How something is drawn."""

    label: str  # its name in the legend
    color: str  # of matplotlib
    line: str  # ``"-"`` or ``"--"`` for a box, ``"."`` for points that have moved, ``"o"`` for an outline


@dataclass(frozen=True)
class Bar:
    """A number as a bar, ``share`` in 0..1 being its length; the color is one of matplotlib."""

    label: str
    share: float
    color: str


@dataclass(frozen=True)
class Closeup:
    """A region and what is drawn on it.

    Marks are styles with where they go, in the frame of the image: a box (4,), or for each point where it
    comes from and where it is, (n, 2, 2), or the corners of an outline (n, 2), as (x, y).
    """

    heading: str
    marks: Sequence[tuple[Style, np.ndarray]]
    over: np.ndarray | None = None  # (H, W, 3) uint8, shown instead of the image
    full: bool = False  # show all of the image, not the region of the marks
    bars: Sequence[Bar] = ()  # beneath it; as many in each close-up of a row


def draw_closeups(image_rgb: np.ndarray, rows: Sequence[Sequence[Closeup]]) -> np.ndarray:
    """Draw close-ups of an image (H, W, 3) uint8 in rows of equal length, with one legend beneath."""
    grid = above([beside([_drawn(image_rgb, closeup) for closeup in row]) for row in rows])
    styles = dict.fromkeys(style for row in rows for closeup in row for style, _ in closeup.marks)
    return above([grid, _legend(styles, grid.shape[1])])


def _drawn(image: np.ndarray, closeup: Closeup) -> np.ndarray:
    image = image if closeup.over is None else closeup.over
    if closeup.full:
        side = max(image.shape[:2])
        corner = (np.array(image.shape[1::-1]) - side) / 2
    else:
        corner, side = _region(closeup, image.shape)
    scale = SIDE / side
    move = np.array([[scale, 0, -scale * corner[0]], [0, scale, -scale * corner[1]]])
    # Pixels have an extent: the middle of the first one lies at half a pixel.
    move[:, 2] += (scale - 1) / 2
    shown = cv2.warpAffine(image, move, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderValue=(96, 96, 96))
    canvas = Visualizer(shown)
    for style, where in closeup.marks:
        _mark(canvas, style, (np.asarray(where, np.float64).reshape(-1, 2) - corner) * scale)
    drawn = finish(canvas, closeup.heading)
    return np.concatenate([drawn, *(_bar(bar) for bar in closeup.bars)]) if closeup.bars else drawn


def _bar(bar: Bar) -> np.ndarray:
    strip = np.zeros((STRIP, SIDE, 3), np.uint8)
    color = [round(255 * part) for part in to_rgb(bar.color)]
    end = _BAR_FROM + round((_BAR_TO - _BAR_FROM) * bar.share)
    strip[5:-5, _BAR_FROM:_BAR_TO] = 48
    strip[5:-5, _BAR_FROM:end] = color
    write(strip, bar.label, 6)
    write(strip, f"{bar.share:.2f}", _BAR_TO + 8)
    return strip


def _region(closeup: Closeup, shape: Sequence[int]) -> tuple[np.ndarray, float]:
    """Return the upper left corner (x, y) and the side of the square that holds all marks."""
    corners = np.concatenate([np.asarray(where, np.float64).reshape(-1, 2) for _, where in closeup.marks])
    low, high = corners.min(axis=0), corners.max(axis=0)
    side = max(_LEAST, _CONTEXT * (high - low).max())
    # Within the image as far as it goes, so that all of the picture shows something.
    room = np.maximum(np.array(shape[1::-1]) - side, 0)
    corner = np.clip((low + high - side) / 2, 0, room)
    return np.clip(corner, high + side * 0.02 - side, low - side * 0.02), side


def _mark(canvas: Visualizer, style: Style, corners: np.ndarray) -> None:
    """Draw a box, given by two corners (2, 2), moved points (2n, 2) or an outline (n, 2), in pixels."""
    if style.line == "o":
        x, y = np.concatenate([corners, corners[:1]]).T
        canvas.draw_line(x, y, style.color, linewidth=2)
        return
    if style.line != ".":
        canvas.draw_box(corners.flatten(), 1.0, style.color, style.line)
        return
    pairs = corners.reshape(-1, 2, 2)
    for (x0, y0), (x1, y1) in pairs:
        canvas.draw_line([x0, x1], [y0, y1], style.color, linewidth=1.2)
    for _, end in pairs:
        canvas.draw_circle(end, "black", _DOT)
        canvas.draw_circle(end, style.color, _DOT - 1)


def _legend(styles: Iterable[Style], width: int) -> np.ndarray:
    """Return strips of a width with a sample and the label of each style; as many as it takes."""
    lines: list[list[tuple[Style, int]]] = [[]]
    x = 6
    for style in styles:
        length = _SAMPLE + write(np.zeros((STRIP, 1, 3), np.uint8), style.label, 0) + _BETWEEN
        if lines[-1] and x + length > width:
            lines.append([])
            x = 6
        lines[-1].append((style, x))
        x += length
    return np.concatenate([_legend_line(line, width) for line in lines])


def _legend_line(samples: Sequence[tuple[Style, int]], width: int) -> np.ndarray:
    canvas = Visualizer(np.zeros((STRIP, width, 3), np.uint8))
    for style, x in samples:
        if style.line == ".":
            _mark(canvas, style, np.array([[x + 0.0, 12], [x + 12, 12], [x + 18, 12], [x + 28, 12]]))
        else:
            line = "-" if style.line == "o" else style.line
            canvas.draw_line([x, x + 30], [12, 12], style.color, line, linewidth=2.5)
    strip = canvas.output.get_image().copy()
    for style, x in samples:
        write(strip, style.label, x + _SAMPLE)
    return strip
