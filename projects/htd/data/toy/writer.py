"""Writing of the toy data set: JPEG images, COCO annotations and stuff maps under one folder."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2

from htd.data.toy.annotation import annotations, stuff_map
from htd.data.toy.drawing import draw
from htd.data.toy.layout import CATEGORIES, TEXTURES, draw_layout
from htd.errors import UserError

_LOGGER = logging.getLogger(__name__)
_RECORD = "toy.json"
_JPEG_QUALITY = 92
_FIRST_INDEX = {"train": 0, "val": 1_000_000}
_FORMAT = 1


@dataclass(frozen=True)
class ToySettings:
    """What a toy data set follows from; two sets with equal settings hold equal images."""

    strength: float
    train: int
    val: int
    seed: int
    format: int = _FORMAT


def make_toy_data(
    output: str | Path, *, strength: float = 0.5, train: int = 400, val: int = 100, seed: int = 0
) -> Path:
    """Write a toy data set, or do nothing where the same one already lies.

    The folder appears only when it is complete. It holds ``annotations/instances_{train,val}.json``,
    ``train/`` and ``val/`` with images, ``stuff_train/`` and ``stuff_val/`` with stuff maps.

    Args:
        output: folder to make.
        strength: 0 (class and extent of an object at one place) to 1 (apart).
        train: number of training images.
        val: number of validation images.
        seed: image i of a split depends on (seed, i) alone, so more images leave the first ones as
            they are, and the layout is the same at every strength.

    Returns:
        The folder.

    Raises:
        UserError: a value is out of range, the folder holds something else, or it cannot be made.
    """
    settings = ToySettings(strength=float(strength), train=train, val=val, seed=seed)
    output = Path(output)
    try:
        return _make(settings, output)
    except OSError as error:
        raise UserError(
            f"toy data: folder {output} cannot be made ({error}); name one that can be written"
        ) from error


def _make(settings: ToySettings, output: Path) -> Path:
    _check(settings, output)
    if _existing(output) == asdict(settings):
        _LOGGER.info("toy data with these settings are already in %s", output)
        return output
    output.parent.mkdir(parents=True, exist_ok=True)
    # Made beside its final place, so that the last step is one rename on one file system.
    partial = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        for split in ("train", "val"):
            _write_split(partial, split, settings)
        (partial / _RECORD).write_text(json.dumps(asdict(settings)))
        partial.chmod(0o755)
        os.replace(partial, output)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return output


def _check(settings: ToySettings, output: Path) -> None:
    if not 0 <= settings.strength <= 1:
        raise UserError(f"toy data: strength {settings.strength} is not between 0 and 1")
    if settings.seed < 0:
        raise UserError(f"toy data: seed {settings.seed} is negative; take 0 or more")
    for name in ("train", "val"):
        if not 1 <= getattr(settings, name) < 1_000_000:
            raise UserError(f"toy data: {name}={getattr(settings, name)} images; take 1 to 999999")
    found = _existing(output)
    if found is not None and found != asdict(settings):
        raise UserError(
            f"toy data: {output} exists and holds {found or 'other files'}, not {asdict(settings)}; "
            "remove it or choose another folder"
        )


def _existing(output: Path) -> dict | None:
    """Return the settings of the data in a folder, {} for foreign files, None for nothing."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return None
    record = output / _RECORD
    return json.loads(record.read_text()) if record.is_file() else {}


def _write_split(root: Path, split: str, settings: ToySettings) -> None:
    count = getattr(settings, split)
    for folder in (split, f"stuff_{split}", "annotations"):
        (root / folder).mkdir(exist_ok=True)
    content = {
        "info": {"description": f"toy data, {split}", **asdict(settings)},
        "categories": [{"id": key, "name": name} for key, name in CATEGORIES.items()],
        "stuff_categories": [{"id": 92 + k, "name": name} for k, name in enumerate(TEXTURES)],
        "images": [],
        "annotations": [],
    }
    start = time.perf_counter()
    for number in range(count):
        layout = draw_layout(settings.seed, _FIRST_INDEX[split] + number)
        image = draw(layout, settings.strength)
        stem = f"{number + 1:06d}"
        _write(
            root / split / f"{stem}.jpg", image.pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
        )
        _write(root / f"stuff_{split}" / f"{stem}.png", stuff_map(layout, image), [])
        size = {"height": layout.height, "width": layout.width}
        content["images"].append({"id": number + 1, "file_name": f"{stem}.jpg", **size})
        for item in annotations(layout, image):
            identity = {"id": len(content["annotations"]) + 1, "image_id": number + 1}
            content["annotations"].append({**identity, **item})
        if (number + 1) % 100 == 0 or number + 1 == count:
            rate = (number + 1) / (time.perf_counter() - start)
            _LOGGER.info("toy data: %s %d of %d images (%.0f a second)", split, number + 1, count, rate)
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def _write(path: Path, pixels, options: list[int]) -> None:
    if not cv2.imwrite(str(path), pixels, options):
        raise UserError(f"toy data: {path} could not be written; is the disk full?")
