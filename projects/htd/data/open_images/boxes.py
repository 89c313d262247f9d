"""Annotated boxes of many images in arrays, which all loader processes share."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class ImageBoxes:
    """The annotations of a data set.

    Attributes:
        files: (I,) bytes, path of each image in UTF-8, relative to the folder of the images.
        ids: (I,) bytes, identifier of each image in UTF-8.
        starts: (I + 1,) int64; image i has the rows starts[i] to starts[i + 1].
        boxes: (N, 4) float64, XYXY in parts of the image's width and height.
        classes: (N,) int32.
        groups: (N,) bool, whether a box is around a group of objects.
        negatives, positives: classes that people found absent or present, by image.
    """

    files: np.ndarray
    ids: np.ndarray
    starts: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    groups: np.ndarray
    negatives: dict[int, list[int]]
    positives: dict[int, list[int]]


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
        """Add a box."""
        self.images.append(image)
        self.classes.append(number)
        self.values.extend(box)
        self.groups.append(group)

    def verify(self, image: int, number: int, present: bool) -> None:
        """Add a verified label of an image."""
        self.labels[present].setdefault(image, []).append(number)

    def finish(self) -> ImageBoxes:
        """Return all of it, the boxes of an image in the order in which they came."""
        images = np.array(self.images, np.int64)
        order = np.argsort(images, kind="stable")
        return ImageBoxes(
            files=_encoded(self.files),
            ids=_encoded(self.numbers),
            starts=np.searchsorted(images[order], np.arange(len(self.files) + 1)),
            boxes=np.array(self.values, np.float64).reshape(-1, 4)[order],
            classes=np.array(self.classes, np.int32)[order],
            groups=np.array(self.groups, bool)[order],
            negatives=self.labels[False],
            positives=self.labels[True],
        )


def _encoded(texts: Iterable[str]) -> np.ndarray:
    # Objects would be copied into each process by the mere counting of their references.
    return np.array([text.encode() for text in texts], bytes)
