"""OpenImages' files: class list, the official CSVs, and the published text format.

Symbols: I images, K classes, N boxes.
"""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TextIO

import numpy as np

from htd.data.coco import datasets_root, resolve
from htd.errors import UserError

_BOX_COLUMNS = ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax")


@dataclass(frozen=True)
class ImageBoxes:
    """The annotations of a data set, in arrays, which all loader processes share."""

    files: np.ndarray  # (I,) bytes, path of each image in UTF-8, relative to the folder of the images
    ids: np.ndarray  # (I,) bytes, identifier of each image in UTF-8
    starts: np.ndarray  # (I + 1,) int64; image i has the boxes starts[i] to starts[i + 1]
    boxes: np.ndarray  # (N, 4) float64, XYXY in parts of the image's width and height
    classes: np.ndarray  # (N,) int32
    groups: np.ndarray  # (N,) bool, whether a box is around a group of objects
    negatives: dict[int, list[int]]  # by image, classes that people found absent
    positives: dict[int, list[int]]  # by image, classes that people found present


@dataclass
class BoxCollector:
    """Collects annotations in any order of the images."""

    numbers: dict[str, int] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    images: array = field(default_factory=lambda: array("q"))
    values: array = field(default_factory=lambda: array("d"))
    classes: array = field(default_factory=lambda: array("i"))
    groups: array = field(default_factory=lambda: array("b"))
    labels: dict[bool, dict[int, list[int]]] = field(default_factory=lambda: {False: {}, True: {}})

    def image(self, identifier: str, file: str) -> int:
        """Return the number of an image, a new one for a new image."""
        number = self.numbers.setdefault(identifier, len(self.files))
        if number == len(self.files):
            self.files.append(file)
        return number

    def add(self, image: int, number: int, box: tuple[float, ...], group: bool) -> None:
        """Add a box of class ``number``."""
        self.images.append(image)
        self.classes.append(number)
        self.values.extend(box)
        self.groups.append(group)

    def verify(self, image: int, number: int, present: bool) -> None:
        """Add a verified label of an image."""
        self.labels[present].setdefault(image, []).append(number)

    def finish(self) -> ImageBoxes:
        """Return the annotations, the boxes of an image in the order in which they came."""
        images = np.array(self.images, np.int64)
        order = np.argsort(images, kind="stable")
        return ImageBoxes(
            # Bytes: the reference counts of objects would copy their pages into each process.
            files=np.array([text.encode() for text in self.files], bytes),
            ids=np.array([text.encode() for text in self.numbers], bytes),
            starts=np.searchsorted(images[order], np.arange(len(self.files) + 1)),
            boxes=np.array(self.values, np.float64).reshape(-1, 4)[order],
            classes=np.array(self.classes, np.int32)[order],
            groups=np.array(self.groups, bool)[order],
            negatives=self.labels[False],
            positives=self.labels[True],
        )


class OfficialAnnotations:
    """Boxes, verified labels and images as OpenImages distributes them.

    Paths are absolute or relative to $DETECTRON2_DATASETS.

    Args:
        boxes: CSV with the columns ImageID, LabelName, XMin, XMax, YMin, YMax and, optionally, IsGroupOf.
        labels: CSV of the labels that people verified for whole images: ImageID, LabelName, Confidence
            (1 present, 0 absent); None if there is none.
        images: CSV with the column ImageID: the images of the data set, also those without boxes. None
            for those that the other files name.
    """

    def __init__(self, boxes: str, labels: str | None = None, images: str | None = None):
        self.boxes, self.labels, self.images = boxes, labels, images

    @property
    def file(self) -> str:
        """The file of the boxes."""
        return self.boxes

    def read(self, classes: ClassList) -> ImageBoxes:
        """Read the files."""
        collected, numbers = BoxCollector(), classes.numbers()
        unknown = f"is not among the {len(numbers)} of {classes.path}"
        if self.images is not None:
            for _, (identifier,) in csv_rows(existing(self.images), ["ImageID"]):
                collected.image(identifier, f"{identifier}.jpg")
        path = existing(self.boxes)
        for line, (identifier, label, *values, group) in csv_rows(path, _BOX_COLUMNS, ["IsGroupOf"]):
            if label not in numbers:
                raise malformed(path, line, f"label {label!r} {unknown}")
            x1, x2, y1, y2 = (_number(path, line, value) for value in values)
            _check_box(path, line, (x1, y1, x2, y2))
            image = self._image(collected, path, line, identifier)
            collected.add(image, numbers[label], (x1, y1, x2, y2), group == "1")
        if self.labels is None:
            return collected.finish()
        path = existing(self.labels)
        for line, (identifier, label, confidence) in csv_rows(path, ["ImageID", "LabelName", "Confidence"]):
            if label not in numbers:
                raise malformed(path, line, f"label {label!r} {unknown}")
            value = _number(path, line, confidence)
            if value not in (0.0, 1.0):
                raise malformed(path, line, f"confidence {confidence} of a verified label is neither 0 nor 1")
            collected.verify(self._image(collected, path, line, identifier), numbers[label], value == 1.0)
        return collected.finish()

    def _image(self, collected: BoxCollector, path: Path, line: int, identifier: str) -> int:
        if self.images is not None and identifier not in collected.numbers:
            raise malformed(path, line, f"image {identifier} does not stand in {self.images}")
        return collected.image(identifier, f"{identifier}.jpg")


def _number(path: Path, line: int, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise malformed(path, line, f"{text!r} is not a number") from None


def _check_box(path: Path, line: int, box: tuple[float, ...]) -> None:
    x1, y1, x2, y2 = box
    # Rounded values of boxes at the border exceed 1 by a little. Comparisons with NaN are false.
    if not (-0.01 <= x1 <= x2 <= 1.01 and -0.01 <= y1 <= y2 <= 1.01):
        raise malformed(path, line, f"box {box} (x1, y1, x2, y2) is not within 0 to 1, in this order")


class TextAnnotations:
    """The published text format of boxes and negative labels. For each image it has these lines:

    path of the image; numbers of classes that are absent (may be an empty line); number n of boxes;
    n lines ``class x1 y1 x2 y2`` or ``class x1 y1 x2 y2 group``, coordinates in parts of the image's
    width and height, classes counted from 1, group 1 for a box around a group of objects.

    Args:
        file: absolute, or relative to $DETECTRON2_DATASETS.
    """

    def __init__(self, file: str):
        self.file = file

    def read(self, classes: ClassList) -> ImageBoxes:
        """Read the file. The name of an image's file without its ending identifies the image."""
        path, collected = existing(self.file), BoxCollector()
        with opened(path) as file:
            lines = _Lines(path, file, len(classes.labels))
            for name in lines.names():
                identifier = PurePosixPath(name).stem
                if identifier in collected.numbers:
                    raise lines.malformed(f"image {identifier} occurs twice")
                image = collected.image(identifier, name)
                for label in lines.take().split():
                    collected.verify(image, lines.label(label), False)
                for _ in range(lines.count()):
                    collected.add(image, *lines.box())
        return collected.finish()


class _Lines:
    """The lines of a file, taken one by one, and read as what they should be."""

    def __init__(self, path: Path, file: Iterator[str], num_classes: int):
        self.path, self.num_classes, self.number = path, num_classes, 0
        self._file = file

    def malformed(self, what: str) -> UserError:
        return malformed(self.path, self.number, what)

    def names(self) -> Iterator[str]:
        """Yield each line at which an image begins; the lines of the image have to be taken in between."""
        for line in self._file:
            self.number += 1
            if line.strip():
                yield line.strip()

    def take(self) -> str:
        line = next(self._file, None)
        if line is None:
            raise self.malformed("the file ends within an image")
        self.number += 1
        return line.strip()

    def count(self) -> int:
        text = self.take()
        if not text.isdecimal():
            raise self.malformed(f"{text[:40]!r} is not the number of an image's boxes")
        return int(text)

    def label(self, text: str) -> int:
        """Return the class 0..K-1 for a number 1..K."""
        if not text.isdecimal() or not 1 <= int(text) <= self.num_classes:
            raise self.malformed(f"class {text!r} is not one of 1 to {self.num_classes}")
        return int(text) - 1

    def box(self) -> tuple[int, tuple[float, ...], bool]:
        """Return the next line as class, box and whether it is around a group."""
        label, *values = self.take().split() or [""]
        if len(values) not in (4, 5) or values[4:] not in ([], ["0"], ["1"]):
            raise self.malformed("a box is `class x1 y1 x2 y2`, and 0 or 1 for a group behind it")
        try:
            box = tuple(map(float, values[:4]))
        except ValueError:
            raise self.malformed(f"{' '.join(values[:4])!r} are not four numbers") from None
        _check_box(self.path, self.number, box)
        return self.label(label), box, values[4:] == ["1"]


@dataclass(frozen=True)
class ClassList:
    """The classes, number k being class k.

    Labels are identifiers such as ``/m/061hd_``; the path is the file that was read.
    """

    path: Path
    labels: list[str]
    names: list[str]

    def numbers(self) -> dict[str, int]:
        """Return the class of each label."""
        return {label: number for number, label in enumerate(self.labels)}


def read_classes(path: str | Path) -> ClassList:
    """Read class descriptions: ``label,name`` per line, or ``label,name,number`` with numbers 1..K.

    Without numbers the classes are in the order of the lines. A first line ``LabelName,DisplayName``
    is a header.
    """
    path = existing(path)
    classes: dict[int, tuple[str, str]] = {}
    with _opened_csv(path) as reader:
        for row in reader:
            if not row or row[0] == "LabelName":
                continue
            if len(row) not in (2, 3) or not row[0]:
                raise malformed(path, reader.line_num, "a class is label,name or label,name,number")
            try:
                number = int(row[2]) if len(row) == 3 else len(classes) + 1
            except ValueError:
                raise malformed(path, reader.line_num, f"{row[2]!r} is not a whole number") from None
            if number in classes or any(row[0] == label for label, _ in classes.values()):
                raise malformed(path, reader.line_num, f"class {row[0]} or its number {number} occurs twice")
            classes[number] = row[0], row[1]
    if not classes or sorted(classes) != list(range(1, len(classes) + 1)):
        raise UserError(
            f"OpenImages file {path} has {len(classes)} classes whose numbers are not 1 to {len(classes)}; "
            "name the class descriptions, or correct the third column"
        )
    labels, names = zip(*(classes[number] for number in sorted(classes)), strict=True)
    return ClassList(path, list(labels), list(names))


def existing(path: str | Path) -> Path:
    """Return a data path under the data root."""
    file = resolve(path)
    if not file.is_file():
        raise UserError(
            f"OpenImages file {file} does not exist; name another, or set DETECTRON2_DATASETS (now "
            f"{datasets_root()}) to the folder that holds it"
        )
    return file


def malformed(path: Path, line: int, what: str) -> UserError:
    """Return the error of one line of a file."""
    return UserError(f"OpenImages file {path}, line {line}: {what}; correct the line or get the file again")


@contextmanager
def opened(path: Path) -> Iterator[TextIO]:
    """Open a text file for a ``with`` block, without the mark that Excel puts before the first line."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            yield file
    except OSError as error:
        raise UserError(f"OpenImages file {path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"OpenImages file {path} is not text in UTF-8 ({error.reason}); is it an archive?"
        ) from error


@contextmanager
def _opened_csv(path: Path) -> Iterator:
    """Open a CSV file for a ``with`` block, as :func:`opened` does; what is no CSV is malformed."""
    with opened(path) as file:
        reader = csv.reader(file)
        try:
            yield reader
        except csv.Error as error:
            raise malformed(path, reader.line_num, str(error)) from error


def csv_rows(path: Path, columns: Iterable[str], optional: Iterable[str] = ()) -> Iterator[tuple[int, list]]:
    """Yield line number and the values of the named columns, in this order, of a CSV file with a header.

    Values of optional columns are None where the file lacks them.
    """
    with _opened_csv(path) as reader:
        header = [name.strip() for name in next(reader, [])]
        missing = [name for name in columns if name not in header]
        if missing:
            raise UserError(
                f"OpenImages file {path} has no column {', '.join(missing)} in its first line; "
                f"it has {', '.join(header[:12]) or 'none'}; is it another of the official files?"
            )
        places = [header.index(name) if name in header else -1 for name in (*columns, *optional)]
        for row in reader:
            if len(row) != len(header):
                if not row:
                    continue
                raise malformed(path, reader.line_num, f"{len(row)} values under {len(header)} columns")
            yield reader.line_num, [row[k] if k >= 0 else None for k in places]
