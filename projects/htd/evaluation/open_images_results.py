"""Files of detections on OpenImages: the published text, the challenge's CSV, and COCO's results."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from htd.errors import UserError
from htd.evaluation.open_images_scores import BoxTable
from htd.files import write_file

_COLUMNS = ("ImageID", "LabelName", "Score", "XMin", "XMax", "YMin", "YMax")


@dataclass(frozen=True)
class Detections:
    """Detections of some images; boxes are in parts of the image's sides."""

    ids: list[str]  # of the images
    table: BoxTable  # its images are places in ``ids``, its values scores


def _detections(ids: Sequence[str], values: Sequence[Sequence[float]]) -> Detections:
    """Return detections from the image of each one and its (x1, y1, x2, y2, score, class)."""
    values = np.array(values, np.float64).reshape(-1, 6)
    numbers = {identifier: number for number, identifier in enumerate(dict.fromkeys(ids))}
    images = np.array([numbers[identifier] for identifier in ids], np.int64)
    table = BoxTable(images, values[:, 5].astype(np.int64), values[:, :4], values[:, 4])
    return Detections(list(numbers), table)


def read_detections(path: str | Path) -> Detections:
    """Read lines ``image x1 y1 x2 y2 score class`` with classes from 1, the published text."""
    ids, detections = [], []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        identifier, *texts = line.split() or [""]
        if not identifier:
            continue
        try:
            values = [float(text) for text in texts]
        except ValueError:
            values = []
        with_class = len(values) == 6 and all(map(math.isfinite, values)) and 1 <= values[5] < 2**31
        if not with_class or values[5] % 1:
            raise UserError(
                f"detections {path}, line {number}: not of the form image x1 y1 x2 y2 score class, class "
                "from 1; convert COCO's results (.json) by tools/convert_open_images_results.py"
            )
        ids.append(identifier)
        detections.append([*values[:5], values[5] - 1])
    detections = _detections(ids, detections)
    boxes = detections.table.boxes
    outside = boxes[:, 2:].min(axis=1) > 1.5
    # Boxes in pixels end far outside of the image, if they are taken for parts of its sides.
    if 2 * outside.sum() > len(boxes):
        raise UserError(
            f"detections {path} are in pixels, such as {boxes[outside.argmax()].tolist()}; divide them by "
            "the image's width and height"
        )
    return detections


def check_classes(table: BoxTable, num_classes: int, owner: str) -> None:
    """Check that the classes of detections are among the K of their owner."""
    highest = int(table.classes.max(initial=0))
    if highest >= num_classes:
        raise UserError(
            f"there are detections of class {highest} (from 0), but {owner} has {num_classes} classes; set "
            "the model's num_classes"
        )


def write_detections(path: str | Path, detections: Detections) -> None:
    """Write the published text, see :func:`read_detections`."""
    lines = [
        f"{image} {x1:.6f} {y1:.6f} {x2:.6f} {y2:.6f} {score:.6f} {number + 1}\n"
        for image, number, (x1, y1, x2, y2), score in _each(detections)
    ]
    write_file(Path(path), "".join(lines))


def write_challenge_csv(path: str | Path, detections: Detections, labels: Sequence[str]) -> None:
    """Write the CSV that the challenge's own tool reads, with the label of each class."""
    check_classes(detections.table, len(labels), "the list of the labels")
    lines = [",".join(_COLUMNS) + "\n"]
    for image, number, (x1, y1, x2, y2), score in _each(detections):
        lines.append(f"{image},{labels[number]},{score:.6f},{x1:.6f},{x2:.6f},{y1:.6f},{y2:.6f}\n")
    write_file(Path(path), "".join(lines))


def read_coco_results(results: str | Path, annotations: str | Path, classes: dict[str, int]) -> Detections:
    """Read results in COCO's format.

    Args:
        results: JSON list of ``image_id``, ``category_id``, ``score`` and ``bbox`` (XYWH, pixels).
        annotations: COCO file with the ``images`` and ``categories`` that the ids stand for. An image's file
            name without its ending identifies it.
        classes: the class of each label and of each name.
    """
    entries, content = _json(results), _json(annotations)
    try:
        images = {image["id"]: _image(image) for image in content["images"]}
        names = {category["id"]: str(category["name"]) for category in content["categories"]}
        table = [_result(entry) for entry in entries]
        missing = [entry[:2] for entry in table if entry[0] not in images or entry[1] not in names]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"results {results} with annotations {annotations} are not in COCO's format "
            f"({type(error).__name__} {error})"
        ) from error
    strange = sorted({name for name in names.values() if name not in classes})
    if strange:
        raise UserError(
            f"categories {', '.join(strange[:5])} of {annotations} are no classes of OpenImages; name them "
            "by label or by name"
        )
    if missing:
        image, category = missing[0]
        raise UserError(
            f"results {results}: image id {image!r} or category id {category!r} is not in {annotations}"
        )
    ids, detections = [], []
    for image, category, (x, y, w, h), value in table:
        identifier, width, height = images[image]
        ids.append(identifier)
        box = x / width, y / height, (x + w) / width, (y + h) / height
        detections.append((*box, value, classes[names[category]]))
    return _detections(ids, detections)


def _image(entry: dict) -> tuple[str, float, float]:
    """Return identifier, width and height of an image of a COCO file, or raise what is wrong."""
    width, height = float(entry["width"]), float(entry["height"])
    if not (0 < width < math.inf and 0 < height < math.inf):
        raise ValueError(f"image {entry['id']!r} of {entry['width']} x {entry['height']} pixels")
    return Path(entry["file_name"]).stem, width, height


def _result(entry: dict) -> tuple[object, object, tuple[float, ...], float]:
    """Return image, category, box and score of a result in COCO's format, or raise what is wrong."""
    box, score = tuple(map(float, entry["bbox"])), float(entry["score"])
    if len(box) != 4 or not all(map(math.isfinite, (*box, score))):
        raise ValueError(f"bbox {entry['bbox']} with score {entry['score']}")
    return entry["image_id"], entry["category_id"], box, score


def _each(detections: Detections):
    table = detections.table
    names = [detections.ids[number] for number in table.images.tolist()]
    return zip(names, table.classes.tolist(), table.boxes.tolist(), table.values.tolist(), strict=True)


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"detections {path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"detections {path} are not text in UTF-8 ({error.reason}); is it an archive?"
        ) from error


def _json(path: str | Path):
    try:
        return json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"results {path} is not JSON ({error}); was it cut short?") from error
