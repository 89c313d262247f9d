"""Writing of the toy data set: JPEG images, COCO annotations, stuff maps, and OpenImages' official format."""

from __future__ import annotations

import csv
import json
import logging
import os
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

from htd.data.coco import read_coco
from htd.data.toy.drawing import annotations, draw, stuff_map
from htd.data.toy.layout import CATEGORIES, TEXTURES, draw_layout
from htd.errors import UserError

_LOGGER = logging.getLogger(__name__)
_RECORD = "toy.json"
_JPEG_QUALITY = 92
_FIRST_INDEX = {"train": 0, "val": 1_000_000}
_FORMAT = 1
# Classes above the drawn ones; no object is annotated as one of these, as is usual in OpenImages.
_ROOT, _SHAPE, _CORNERED = "/m/entity", "/m/shape", "/m/cornered"
_ABSENT_SHARE = 0.5  # of the classes that an image does not have, those that were verified as absent
_BOX_COLUMNS = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf"


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
    """Write a toy data set, or do nothing where the same one exists.

    The folder appears only when it is complete. It holds ``annotations/instances_{train,val}.json``,
    ``train/`` and ``val/`` with images, ``stuff_train/`` and ``stuff_val/`` with stuff maps.

    Args:
        output: folder to make.
        strength: 0 (class and extent of an object at one place) to 1 (apart).
        train, val: number of images.
        seed: image i of a split depends on (seed, i) alone, so more images leave the first ones as
            they are, and the layout is the same at every strength.

    Returns:
        The folder.
    """
    settings = ToySettings(strength=float(strength), train=train, val=val, seed=seed)
    try:
        return _make(settings, Path(output))
    except OSError as error:
        raise UserError(f"toy data: folder {output} cannot be made ({error}); name another") from error


def _make(settings: ToySettings, output: Path) -> Path:
    if not 0 <= settings.strength <= 1:
        raise UserError(f"toy data: strength {settings.strength} is not between 0 and 1")
    if settings.seed < 0:
        raise UserError(f"toy data: seed {settings.seed} is negative; take 0 or more")
    for name in ("train", "val"):
        if not 1 <= getattr(settings, name) < 1_000_000:
            raise UserError(f"toy data: {name}={getattr(settings, name)} images; take 1 to 999999")
    present = _existing(output)
    if present == asdict(settings):
        _LOGGER.info("toy data with these settings are already in %s", output)
        return output
    if present is not None:
        raise UserError(
            f"toy data: {output} exists and holds {present or 'other files'}, not {asdict(settings)}; "
            "remove it or choose another folder"
        )
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
        quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
        _write_image(root / split / f"{stem}.jpg", image.pixels[..., ::-1], quality)
        _write_image(root / f"stuff_{split}" / f"{stem}.png", stuff_map(layout, image), [])
        size = {"height": layout.height, "width": layout.width}
        content["images"].append({"id": number + 1, "file_name": f"{stem}.jpg", **size})
        for item in annotations(layout, image):
            identity = {"id": len(content["annotations"]) + 1, "image_id": number + 1}
            content["annotations"].append({**identity, **item})
        if (number + 1) % 100 == 0 or number + 1 == count:
            rate = (number + 1) / (time.perf_counter() - start)
            _LOGGER.info("toy data: %s %d of %d images (%.0f a second)", split, number + 1, count, rate)
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def _write_image(path: Path, pixels, options: list[int]) -> None:
    if not cv2.imwrite(str(path), pixels, options):
        raise UserError(f"toy data: {path} could not be written; is the disk full?")


def write_open_images(toy: str | Path) -> Path:
    """Write, and return, the folder ``open_images`` in the folder of a toy data set.

    Crowd regions become boxes around groups. All classes of an image are verified as present, and half of
    the others, drawn from the image's number, as absent. The folder holds ``classes.csv``, ``hierarchy.json``
    and, for train and val, ``<split>-boxes.csv``, ``<split>-labels.csv`` and ``<split>-images.csv``.
    """
    folder = Path(toy) / "open_images"
    folder.mkdir(exist_ok=True)
    drawn = {name: f"/m/{name}" for name in CATEGORIES.values()}
    classes = [(_SHAPE, "shape"), (_CORNERED, "cornered shape"), *((drawn[name], name) for name in drawn)]
    _write_csv(folder / "classes.csv", "", classes)
    cornered = [{"LabelName": label} for name, label in drawn.items() if name != "disc"]
    middle = [{"LabelName": drawn["disc"]}, {"LabelName": _CORNERED, "Subcategory": cornered}]
    tree = {"LabelName": _ROOT, "Subcategory": [{"LabelName": _SHAPE, "Subcategory": middle}]}
    (folder / "hierarchy.json").write_text(json.dumps(tree))
    for split in ("train", "val"):
        _write_open_images_split(Path(toy), folder, split, drawn)
    return folder


def _write_open_images_split(toy: Path, folder: Path, split: str, drawn: dict[str, str]) -> None:
    content = read_coco((toy / "annotations" / f"instances_{split}.json").resolve())
    images = {image["id"]: image for image in content.images}
    names = {identifier: Path(image["file_name"]).stem for identifier, image in images.items()}
    boxes, present = [], {identifier: set() for identifier in images}
    for entry in content.annotations:
        identifier, label = entry["image_id"], drawn[content.names[entry["category_id"]]]
        width, height = images[identifier]["width"], images[identifier]["height"]
        x, y, w, h = entry["bbox"]
        corners = x / width, (x + w) / width, y / height, (y + h) / height
        present[identifier].add(label)
        boxes.append((names[identifier], "xclick", label, 1, *corners, 0, 0, entry["iscrowd"]))
    labels = []
    for identifier, name in names.items():
        absent = [label for label in drawn.values() if label not in present[identifier]]
        asked = np.random.default_rng(identifier).random(len(absent)) < _ABSENT_SHARE
        labels += [(name, "verification", label, 1) for label in sorted(present[identifier])]
        labels += [(name, "verification", absent[k], 0) for k in np.flatnonzero(asked)]
    _write_csv(folder / f"{split}-boxes.csv", _BOX_COLUMNS, boxes)
    _write_csv(folder / f"{split}-labels.csv", "ImageID,Source,LabelName,Confidence", labels)
    _write_csv(folder / f"{split}-images.csv", "ImageID", [(name,) for name in names.values()])


def _write_csv(path: Path, header: str, lines: list[tuple]) -> None:
    with path.open("w", newline="") as file:
        if header:
            file.write(header + "\n")
        csv.writer(file, lineterminator="\n").writerows(lines)
