"""Sizes of images: from a CSV file, or from the heads of the image files."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from htd.data.coco_file import resolve
from htd.data.open_images.files import csv_rows, malformed
from htd.errors import UserError

_LOGGER = logging.getLogger(__name__)
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)


def image_sizes(ids: Sequence[str], folder: Path, files: Sequence[str], sizes_file: str | None) -> np.ndarray:
    """Return the sizes (I, 2) int64, (height, width), of images as they are read.

    Args:
        ids: identifiers of the images.
        folder: where the images lie.
        files: their paths in it.
        sizes_file: CSV with the columns ImageID, Width, Height; where it is missing or lacks images, they
            are looked up and written to it. None looks them up each time.

    Raises:
        UserError: an image is missing or is no image, or a line of the file is malformed.
    """
    file = resolve(sizes_file) if sizes_file else None
    known = _read(file) if file and file.is_file() else {}
    unknown = [number for number, identifier in enumerate(ids) if identifier not in known]
    if unknown:
        _LOGGER.info("looking up the sizes of %d images", len(unknown))
        with ThreadPoolExecutor() as threads:
            sizes = threads.map(size_of, (folder / files[number] for number in unknown))
            known.update({ids[number]: size for number, size in zip(unknown, sizes, strict=True)})
        if file:
            _write(file, known)
    return np.array([known[identifier] for identifier in ids], np.int64).reshape(-1, 2)


def size_of(path: Path) -> tuple[int, int]:
    """Return (height, width) of an image file, turned as its EXIF orientation says, without decoding it.

    Raises:
        UserError: it is missing or no image.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(_ORIENTATION) in _TURNED
    # Broken and far too large images raise the others.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        what = error.strerror or "it is no image" if isinstance(error, OSError) else error
        raise UserError(
            f"image {path} has no size that could be read ({what}); "
            "put it there, take it out of the annotations, or correct image_root"
        ) from error
    return (width, height) if turned else (height, width)


def _read(file: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for line, (identifier, *sides) in csv_rows(file, ["ImageID", "Height", "Width"]):
        if not all(side.isdecimal() and int(side) > 0 for side in sides):
            raise malformed(file, line, f"height {sides[0]!r} and width {sides[1]!r} are not both above 0")
        found[identifier] = int(sides[0]), int(sides[1])
    return found


def _write(file: Path, sizes: dict[str, tuple[int, int]]) -> None:
    # Several processes may write the same; each replaces the whole file at once.
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    lines = ["ImageID,Width,Height", *(f"{name},{width},{height}" for name, (height, width) in sizes.items())]
    try:
        partial.write_text("\n".join(lines) + "\n")
        os.replace(partial, file)
    except OSError as error:
        _LOGGER.warning("sizes of images are not kept: %s cannot be written (%s)", file, error.strerror)
