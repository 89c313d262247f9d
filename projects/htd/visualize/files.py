"""Which images are drawn, how their pictures are called, and how these are written."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

import cv2
import numpy as np

from htd.errors import UserError
from htd.files import write_file

_ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
# Of each ending the encoder's options: lines stay sharp, and JPEGs have all colors at full resolution.
_SAMPLING = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
_OPTIONS = {".jpg": (cv2.IMWRITE_JPEG_QUALITY, 85, *_SAMPLING)}


def find_images(inputs: Iterable[str | Path]) -> list[Path]:
    """Return the images that files and folders (not those in folders) name, each once, by name."""
    unique: dict[Path, Path] = {}
    for path in map(Path, inputs):
        if not path.exists():
            raise UserError(f"input {path} does not exist; name an image or a folder of images")
        images = [path]
        if path.is_dir():
            files = (file for file in path.iterdir() if file.is_file() and file.name[0] != ".")
            images = sorted(file for file in files if file.suffix.lower() in _ENDINGS)
        if not images:
            raise UserError(f"input folder {path} holds no image ({', '.join(_ENDINGS)})")
        for image in images:
            unique.setdefault(image.resolve(), image)
    return list(unique.values())


def picture_names(images: Iterable[Path]) -> list[str]:
    """Return a name for each image: that of its file, with a number behind it where names are repeated."""
    names: dict[str, None] = {}
    for image in images:
        name, number = image.stem, 1
        while name in names:
            number += 1
            name = f"{image.stem}_{number}"
        names[name] = None
    return list(names)


def make_folder(folder: str | Path) -> Path:
    """Make the folder that pictures are written to, if it is not there."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"picture folder {folder} cannot be made ({error.strerror}); name another") from error
    return folder


def write_picture(path: Path, picture_rgb: np.ndarray, kept: Collection[Path] = ()) -> None:
    """Write a picture (H, W, 3) uint8, whole or not at all; an older one of that name is replaced.

    The ending gives the format. Files ``kept``, as ``Path.resolve`` gives them, must not be replaced.
    """
    if path.resolve() in kept:
        raise UserError(f"picture {path} would replace an image of the input; name another --output")
    options = _OPTIONS.get(path.suffix, ())
    data = cv2.imencode(path.suffix, cv2.cvtColor(picture_rgb, cv2.COLOR_RGB2BGR), options)[1]
    write_file(path, data.tobytes())
