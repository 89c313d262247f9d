"""OpenImages data as a sequence of Detectron2's dictionaries."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils.logger import log_first_n

from htd.data.coco_file import resolve
from htd.data.open_images.boxes import ImageBoxes
from htd.data.open_images.files import ClassList, read_classes
from htd.data.open_images.hierarchy import read_ancestors
from htd.data.open_images.official import OfficialAnnotations
from htd.data.open_images.sizes import image_sizes
from htd.data.open_images.text import TextAnnotations
from htd.errors import UserError


class OpenImagesRecords(Sequence):
    """Dictionaries made when they are asked for, out of arrays: the challenge has 12 million boxes.

    The loaders keep this as it is, and class-aware sampling reads :meth:`classes`.

    Args:
        content: the annotations.
        root: folder of the images.
        chosen: numbers of the images to give.
        sizes: height and width of each of these, (len(chosen), 2).
        inclusive_ends: see :func:`open_images_dataset`.
    """

    def __init__(
        self, content: ImageBoxes, root: Path, chosen: np.ndarray, sizes: np.ndarray, inclusive_ends: bool
    ):
        self.content, self.root, self.sizes, self.chosen = content, root, sizes, chosen
        self.end = float(inclusive_ends)

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> dict:
        image = int(self.chosen[index])
        content, (height, width) = self.content, self.sizes[index].tolist()
        rows = slice(content.starts[image], content.starts[image + 1])
        boxes = content.boxes[rows] * [width, height, width, height] + [0.0, 0.0, self.end, self.end]
        objects = zip(
            boxes.tolist(), content.classes[rows].tolist(), content.groups[rows].tolist(), strict=True
        )
        return {
            "file_name": str(self.root / content.files[image].decode()),
            "image_id": content.ids[image].decode(),
            "height": height,
            "width": width,
            "negative_classes": content.negatives.get(image, []),
            "positive_classes": content.positives.get(image, []),
            "annotations": [
                {
                    "bbox": box,
                    "bbox_mode": BoxMode.XYXY_ABS,
                    "category_id": number,
                    "iscrowd": 0,
                    "is_group": group,
                }
                for box, number, group in objects
            ],
        }

    def classes(self) -> tuple[np.ndarray, np.ndarray]:
        """Return for each object the index of its image here, and its class, both (N,), in this order."""
        starts = self.content.starts
        counts = starts[self.chosen + 1] - starts[self.chosen]
        rows = np.arange(counts.sum()) + np.repeat(starts[self.chosen] - np.cumsum(counts) + counts, counts)
        return np.repeat(np.arange(len(self)), counts), self.content.classes[rows]


def open_images_dataset(
    name: str,
    annotations: OfficialAnnotations | TextAnnotations,
    classes_file: str,
    image_root: str,
    *,
    hierarchy_file: str | None = None,
    relations: Sequence[str] = ("Subcategory",),
    sizes_file: str | None = None,
    filter_empty: bool = False,
    inclusive_ends: bool = False,
) -> OpenImagesRecords:
    """Load OpenImages data and register their name in Detectron2's catalogs if it is new.

    Paths are absolute or relative to $DETECTRON2_DATASETS. Boxes around groups are given to the training
    as others are, and classes are not expanded along the hierarchy, as published; evaluation does both.

    Args:
        name: name of the data set in Detectron2's catalogs.
        annotations: reads the files of one of the two formats.
        classes_file: class descriptions, see ``read_classes``.
        image_root: folder of the images.
        hierarchy_file: the official JSON; without it no class stands above another.
        relations: lists of the hierarchy that evaluation follows; ``Part`` beside ``Subcategory`` is no
            relation of the challenge.
        sizes_file: CSV of the images' sizes, written if it is missing, see ``image_sizes``.
        filter_empty: leave out images without boxes.
        inclusive_ends: read x2 and y2 times the image's sides as the number of the last pixel, as the
            published models do; the box then reaches to x2 + 1, y2 + 1. Else they are where it ends.

    Returns:
        A sequence of dictionaries, one an image: ``file_name``, ``image_id`` (text), ``height``, ``width``,
        ``negative_classes`` and ``positive_classes`` (verified for the image), and ``annotations``:
        ``bbox`` (XYXY, pixels of the image), ``bbox_mode``, ``category_id`` (0..K-1), ``iscrowd`` (0) and
        ``is_group``.

    Raises:
        UserError: a file is missing or faulty, a label is unknown, the hierarchy has a cycle, the name
            belongs to other files, or no image is left.
    """
    classes = read_classes(classes_file)
    above = np.eye(len(classes.labels), dtype=bool)
    if hierarchy_file is not None:
        above = read_ancestors(hierarchy_file, classes, relations)
    content = annotations.read(classes)
    numbers = np.diff(content.starts)
    chosen = np.flatnonzero(numbers) if filter_empty else np.arange(len(numbers))
    folder = resolve(image_root)
    if not len(chosen):
        raise UserError(
            f"data set {name}: {annotations.file} has no image that could be used; "
            "with filter_empty an image needs boxes"
        )
    if not folder.is_dir():
        raise UserError(f"data set {name}: image_root {folder} is not a folder; name that of the images")
    ids, files = ([text.decode() for text in texts[chosen]] for texts in (content.ids, content.files))
    sizes = image_sizes(ids, folder, files, sizes_file)
    message = f"data set {name}: {len(chosen)} of {len(numbers)} images, {numbers.sum()} boxes"
    log_first_n(logging.INFO, message, key="message", name=__name__)
    options = {
        "hierarchy_file": hierarchy_file,
        "relations": relations,
        "sizes_file": sizes_file,
        "filter_empty": filter_empty,
        "inclusive_ends": inclusive_ends,
    }
    load = partial(open_images_dataset, name, annotations, classes_file, image_root, **options)
    _register(name, str(resolve(annotations.file)), folder, classes, above, inclusive_ends, load)
    return OpenImagesRecords(content, folder, chosen, sizes, inclusive_ends)


def _register(
    name: str,
    file: str,
    folder: Path,
    classes: ClassList,
    above: np.ndarray,
    inclusive_ends: bool,
    load: partial,
) -> None:
    """Put name, files, classes and what the evaluator needs into Detectron2's catalogs, or check them."""
    entries = {
        "annotation_file": file,
        "image_root": str(folder),
        "evaluator_type": "open_images",
        "thing_classes": classes.names,
        "class_labels": classes.labels,
        "class_ancestors": [np.flatnonzero(row).tolist() for row in above],
        "inclusive_ends": inclusive_ends,
    }
    metadata = MetadataCatalog.get(name)
    for key, value in entries.items():
        if metadata.get(key, value) != value:
            raise UserError(
                f"data set name {name!r} already stands for another {key} than that of {file}; "
                "choose another name"
            )
    metadata.set(**{key: value for key, value in entries.items() if metadata.get(key) is None})
    if name not in DatasetCatalog.list():
        DatasetCatalog.register(name, load)
