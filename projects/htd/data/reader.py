"""Reading of image files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from htd.errors import UserError

FORMATS = ("RGB", "BGR")


def read_image(file_name: str, image_format: str) -> np.ndarray:
    """Decode an image as (H, W, 3) uint8 in the order ``"RGB"`` or ``"BGR"``.

    Gray images get three equal channels, transparency is dropped, and the orientation that a
    camera has noted (EXIF) is applied.

    Raises:
        UserError: the file is missing or cannot be decoded.
    """
    if image_format not in FORMATS:
        raise UserError(f"image format {image_format!r} is unknown; take one of {', '.join(FORMATS)}")
    try:
        data = Path(file_name).read_bytes()
    except OSError as error:
        raise UserError(f"image {file_name} cannot be read ({error.strerror})") from error
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if image is None:
        raise UserError(f"image {file_name} cannot be decoded ({len(data)} bytes); replace or remove it")
    return image if image_format == "BGR" else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


class CachedReader:
    """``read_image`` that keeps every decoded image in memory, for small data sets.

    Each loader worker holds its own copy.
    """

    def __init__(self):
        self._images: dict[tuple[str, str], np.ndarray] = {}

    def __call__(self, file_name: str, image_format: str) -> np.ndarray:
        """Return the image as ``read_image`` does; the array is shared and must not be written to."""
        key = (file_name, image_format)
        if key not in self._images:
            image = read_image(file_name, image_format)
            image.flags.writeable = False
            self._images[key] = image
        return self._images[key]
