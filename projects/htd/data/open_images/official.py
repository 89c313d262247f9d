"""Annotations from the official CSV files of OpenImages."""

from __future__ import annotations

from pathlib import Path

from htd.data.open_images.boxes import BoxCollector, ImageBoxes
from htd.data.open_images.files import ClassList, csv_rows, existing, malformed
from htd.errors import UserError

_BOX = ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax")


class OfficialAnnotations:
    """Boxes, verified labels and images as OpenImages distributes them.

    Paths are absolute or relative to $DETECTRON2_DATASETS.

    Args:
        boxes: CSV with the columns ImageID, LabelName, XMin, XMax, YMin, YMax and, optionally, IsGroupOf;
            others are not read.
        labels: CSV of the labels that people verified for whole images: ImageID, LabelName, Confidence
            (1 present, 0 absent); None if there is none.
        images: CSV with the column ImageID: the images of the data set, also those without boxes. None
            for those that the other files name.
    """

    def __init__(self, boxes: str, labels: str | None = None, images: str | None = None):
        self.boxes, self.labels, self.images = boxes, labels, images

    @property
    def file(self) -> str:
        """The file that the objects stand in."""
        return self.boxes

    def read(self, classes: ClassList) -> ImageBoxes:
        """Read the files.

        Raises:
            UserError: a file is missing, lacks a column, or a line has an unknown label or image or a value
                that cannot be.
        """
        found, numbers = BoxCollector(), classes.numbers()
        if self.images is not None:
            for _, (identifier,) in csv_rows(existing(self.images), ["ImageID"]):
                found.image(identifier, f"{identifier}.jpg")
        self._read_boxes(found, numbers, classes)
        if self.labels is not None:
            self._read_labels(found, numbers, classes)
        return found.finish()

    def _read_boxes(self, found: BoxCollector, numbers: dict[str, int], classes: ClassList) -> None:
        path = existing(self.boxes)
        for line, (identifier, label, *values, group) in csv_rows(path, _BOX, ["IsGroupOf"]):
            if label not in numbers:
                raise _unknown(path, line, label, classes)
            x1, x2, y1, y2 = (_number(path, line, value) for value in values)
            check_box(path, line, (x1, y1, x2, y2))
            image = self._image(found, path, line, identifier)
            found.add(image, numbers[label], (x1, y1, x2, y2), group == "1")

    def _read_labels(self, found: BoxCollector, numbers: dict[str, int], classes: ClassList) -> None:
        path = existing(self.labels)
        for line, (identifier, label, confidence) in csv_rows(path, ["ImageID", "LabelName", "Confidence"]):
            if label not in numbers:
                raise _unknown(path, line, label, classes)
            value = _number(path, line, confidence)
            if value not in (0.0, 1.0):
                raise malformed(path, line, f"confidence {confidence} of a verified label is neither 0 nor 1")
            found.verify(self._image(found, path, line, identifier), numbers[label], value == 1.0)

    def _image(self, found: BoxCollector, path: Path, line: int, identifier: str) -> int:
        if self.images is not None and identifier not in found.numbers:
            raise malformed(path, line, f"image {identifier} does not stand in {self.images}")
        return found.image(identifier, f"{identifier}.jpg")


def check_box(path: Path, line: int, box: tuple[float, ...]) -> None:
    """Check that a box (x1, y1, x2, y2) lies in the image and is not turned over.

    Raises:
        UserError: it does not.
    """
    x1, y1, x2, y2 = box
    # Rounded values of boxes at the border exceed 1 by a little. Comparisons with NaN are false.
    if not (-0.01 <= x1 <= x2 <= 1.01 and -0.01 <= y1 <= y2 <= 1.01):
        raise malformed(path, line, f"box {box} (x1, y1, x2, y2) is not within 0 to 1, in this order")


def _number(path: Path, line: int, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise malformed(path, line, f"{text!r} is not a number") from None


def _unknown(path: Path, line: int, label: str, classes: ClassList) -> UserError:
    return malformed(path, line, f"label {label!r} is not among the {len(classes.labels)} of {classes.path}")
