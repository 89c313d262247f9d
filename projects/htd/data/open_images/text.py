"""Annotations from the text format that the published OpenImages training reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from htd.data.open_images.boxes import BoxCollector, ImageBoxes
from htd.data.open_images.files import ClassList, existing, malformed, opened
from htd.data.open_images.official import check_box
from htd.errors import UserError


class TextAnnotations:
    """One text file for boxes and negative labels. For each image it has these lines:

    path of the image; numbers of classes that are absent (may be an empty line); number n of boxes;
    n lines ``class x1 y1 x2 y2`` or ``class x1 y1 x2 y2 group``, coordinates in parts of the image's
    width and height, classes counted from 1, group 1 for a box around a group of objects.

    Args:
        file: absolute, or relative to $DETECTRON2_DATASETS.
    """

    def __init__(self, file: str):
        self.file = file

    def read(self, classes: ClassList) -> ImageBoxes:
        """Read the file. The name of an image's file without its ending identifies the image.

        Raises:
            UserError: the file is missing or no text, ends within an image, or a line is malformed.
        """
        path, found = existing(self.file), BoxCollector()
        with opened(path) as file:
            lines = _Lines(path, file, len(classes.labels))
            for name in lines.names():
                _read_image(lines, name, found)
        return found.finish()


def _read_image(lines: _Lines, name: str, found: BoxCollector) -> None:
    """Add what the lines after an image's path say."""
    identifier = PurePosixPath(name).stem
    if identifier in found.numbers:
        raise lines.malformed(f"image {identifier} occurs twice")
    image = found.image(identifier, name)
    for label in lines.take().split():
        found.verify(image, lines.label(label), False)
    for _ in range(lines.count()):
        label, *values = lines.take().split() or [""]
        if len(values) not in (4, 5) or values[4:] not in ([], ["0"], ["1"]):
            raise lines.malformed("a box is `class x1 y1 x2 y2`, and 0 or 1 for a group behind it")
        found.add(image, lines.label(label), lines.box(values[:4]), values[4:] == ["1"])


class _Lines:
    """The lines of a file, taken one by one, and read as what they should be."""

    def __init__(self, path: Path, file: Iterator[str], num_classes: int):
        self.path, self.num_classes, self.number = path, num_classes, 0
        self._file = file

    def malformed(self, what: str) -> UserError:
        """Return the error of the line that was taken last."""
        return malformed(self.path, self.number, what)

    def names(self) -> Iterator[str]:
        """Yield each line at which an image begins; the lines of the image have to be taken in between."""
        for line in self._file:
            self.number += 1
            if line.strip():
                yield line.strip()

    def take(self) -> str:
        """Return the next line."""
        line = next(self._file, None)
        if line is None:
            raise self.malformed("the file ends within an image")
        self.number += 1
        return line.strip()

    def count(self) -> int:
        """Return the next line as a number of boxes."""
        text = self.take()
        if not text.isdecimal():
            raise self.malformed(f"{text[:40]!r} is not the number of an image's boxes")
        return int(text)

    def label(self, text: str) -> int:
        """Return the class 0..K-1 for a number 1..K."""
        if not text.isdecimal() or not 1 <= int(text) <= self.num_classes:
            raise self.malformed(f"class {text!r} is not one of 1 to {self.num_classes}")
        return int(text) - 1

    def box(self, values: list[str]) -> tuple[float, ...]:
        """Return four numbers that are a box."""
        try:
            box = tuple(map(float, values))
        except ValueError:
            raise self.malformed(f"{' '.join(values)!r} are not four numbers") from None
        check_box(self.path, self.number, box)
        return box
