"""The toy data in OpenImages' official format: boxes, verified labels, classes and a hierarchy."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np

from htd.data.coco_file import read_coco
from htd.data.toy.layout import CATEGORIES

# Classes above the drawn ones; no object is annotated as one of these, as is usual in OpenImages.
_ROOT, _SHAPE, _CORNERED = "/m/entity", "/m/shape", "/m/cornered"
_ABSENT_SHARE = 0.5  # of the classes that an image does not have, those that were verified as absent
_BOXES = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf"


def write_open_images(toy: str | Path) -> Path:
    """Write ``open_images/`` beside the images of a toy data set.

    Crowd regions become boxes around groups. All classes of an image are verified as present, and half of
    the others, drawn from the image's number, as absent.

    Args:
        toy: folder that ``make_toy_data`` has made.

    Returns:
        The folder, with ``classes.csv``, ``hierarchy.json`` and, for train and val,
        ``<split>-boxes.csv``, ``<split>-labels.csv`` and ``<split>-images.csv``.
    """
    folder = Path(toy) / "open_images"
    folder.mkdir(exist_ok=True)
    drawn = {name: f"/m/{name}" for name in CATEGORIES.values()}
    classes = [(_SHAPE, "shape"), (_CORNERED, "cornered shape"), *((drawn[name], name) for name in drawn)]
    _write(folder / "classes.csv", "", classes)
    cornered = [{"LabelName": label} for name, label in drawn.items() if name != "disc"]
    middle = [{"LabelName": drawn["disc"]}, {"LabelName": _CORNERED, "Subcategory": cornered}]
    tree = {"LabelName": _ROOT, "Subcategory": [{"LabelName": _SHAPE, "Subcategory": middle}]}
    (folder / "hierarchy.json").write_text(json.dumps(tree))
    for split in ("train", "val"):
        _write_split(Path(toy), folder, split, drawn)
    return folder


def _write_split(toy: Path, folder: Path, split: str, drawn: dict[str, str]) -> None:
    content = read_coco((toy / "annotations" / f"instances_{split}.json").resolve())
    images = {image["id"]: image for image in content.images}
    boxes, present = [], {identifier: set() for identifier in images}
    for entry in content.annotations:
        image, label = images[entry["image_id"]], drawn[content.names[entry["category_id"]]]
        x, y, w, h = entry["bbox"]
        across, down = (
            (x / image["width"], (x + w) / image["width"]),
            (y / image["height"], (y + h) / image["height"]),
        )
        present[image["id"]].add(label)
        boxes.append((_name(image), "xclick", label, 1, *across, *down, 0, 0, entry["iscrowd"]))
    labels = []
    for identifier, image in images.items():
        absent = [label for label in drawn.values() if label not in present[identifier]]
        asked = np.random.default_rng(identifier).random(len(absent)) < _ABSENT_SHARE
        labels += [(_name(image), "verification", label, 1) for label in sorted(present[identifier])]
        labels += [
            (_name(image), "verification", label, 0)
            for label, is_asked in zip(absent, asked, strict=True)
            if is_asked
        ]
    _write(folder / f"{split}-boxes.csv", _BOXES, boxes)
    _write(folder / f"{split}-labels.csv", "ImageID,Source,LabelName,Confidence", labels)
    _write(folder / f"{split}-images.csv", "ImageID", [(_name(image),) for image in images.values()])


def _name(image: dict) -> str:
    return Path(image["file_name"]).stem


def _write(path: Path, header: str, rows: list[tuple]) -> None:
    with path.open("w", newline="") as file:
        if header:
            file.write(header + "\n")
        csv.writer(file, lineterminator="\n").writerows(rows)
