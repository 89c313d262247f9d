"""Small OpenImages data sets: the reference arrays as files, and hand-made ones."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from htd.data import OfficialAnnotations, TextAnnotations, open_images_dataset
from tests.recorded import arrays

REFERENCE = "openimages_eval"
_HEAD = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction"


def hierarchy(ancestors: np.ndarray, labels: list[str]) -> dict:
    """Return the JSON of a hierarchy in which each class stands once below each of its ancestors."""
    below = [
        {"LabelName": labels[above], "Subcategory": [{"LabelName": labels[row]}]}
        for row, above in zip(*np.nonzero(ancestors), strict=True)
        if row != above
    ]
    alone = [{"LabelName": label} for label in labels]
    return {"LabelName": "/m/root", "Subcategory": alone + below}


def reference_dataset(folder: Path, name: str, **options):
    """Write the reference arrays' files, images of 100 x 100 pixels assumed, and load them."""
    case = arrays("tsd", REFERENCE)
    text = str(case["gt_text"])
    (folder / "truth.txt").write_text(text)
    (folder / "classes.csv").write_text(str(case["class_csv"]))
    labels = [line.split(",")[0] for line in str(case["class_csv"]).split()]
    tree = hierarchy(case["class_label_tree"][1:, 1:], labels)
    (folder / "hierarchy.json").write_text(json.dumps(tree))
    images = [Path(line).stem for line in text.splitlines() if line.endswith(".jpg")]
    write_sizes(folder, dict.fromkeys(images, (100, 100)))
    return open_images_dataset(
        name,
        TextAnnotations(str(folder / "truth.txt")),
        str(folder / "classes.csv"),
        str(folder),
        hierarchy_file=str(folder / "hierarchy.json"),
        sizes_file=str(folder / "sizes.csv"),
        **options,
    )


def write_sizes(folder: Path, sizes: dict[str, tuple[int, int]]) -> None:
    """Write ``sizes.csv`` for images of (height, width)."""
    lines = [f"{name},{width},{height}" for name, (height, width) in sizes.items()]
    (folder / "sizes.csv").write_text("\n".join(["ImageID,Width,Height", *lines]) + "\n")


class Official:
    """A data set in the official format, written by hand: images of 50 x 100 pixels (height, width).

    Args:
        folder: where to write.
        boxes: rows (image, label, x1, x2, y1, y2, group).
        labels: rows (image, label, confidence), or None for no file of labels.
        images: names of images of a list of images, or None for no list.
        tree: the hierarchy, or None.
    """

    def __init__(self, folder: Path, boxes, labels=None, images=None, tree=None, classes=("a", "b", "c")):
        self.folder, self.tree = folder, tree
        lines = [f"{i},xclick,{c},1,{x1},{x2},{y1},{y2},0,0,{g},0" for i, c, x1, x2, y1, y2, g in boxes]
        self.boxes = self._write("boxes.csv", [_HEAD, *lines])
        self.labels = self.images = None
        names = [str(row[0]) for row in boxes]
        if labels is not None:
            lines = [f"{image},verification,{label},{value}" for image, label, value in labels]
            self.labels = self._write("labels.csv", ["ImageID,Source,LabelName,Confidence", *lines])
            names += [row[0] for row in labels]
        if images is not None:
            self.images = self._write("images.csv", ["ImageID,Subset", *(f"{name},val" for name in images)])
            names += images
        self.classes = self._write("classes.csv", [f"/m/{name},{name}" for name in classes])
        if tree is not None:
            (folder / "hierarchy.json").write_text(json.dumps(tree))
        for name in names:
            cv2.imwrite(str(folder / f"{name}.jpg"), np.zeros((50, 100, 3), np.uint8))

    def _write(self, name: str, lines: list[str]) -> str:
        (self.folder / name).write_text("\n".join(lines) + "\n")
        return str(self.folder / name)

    def load(self, name: str, **options):
        """Load the data set."""
        if self.tree is not None:
            options.setdefault("hierarchy_file", str(self.folder / "hierarchy.json"))
        annotations = OfficialAnnotations(self.boxes, self.labels, self.images)
        return open_images_dataset(name, annotations, self.classes, str(self.folder), **options)
