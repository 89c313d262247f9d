"""OpenImages data as a sequence of Detectron2's dictionaries, sizes of images, and the hierarchy of classes.

Symbols: I images, K classes, N boxes.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import numpy as np
from detectron2.structures import BoxMode
from detectron2.utils.logger import log_first_n
from PIL import Image

from htd.data.coco import register, resolve
from htd.data.open_images_files import (
    ClassList,
    ImageBoxes,
    OfficialAnnotations,
    TextAnnotations,
    csv_rows,
    existing,
    malformed,
    opened,
    read_classes,
)
from htd.errors import UserError
from htd.files import write_file

_LOGGER = logging.getLogger(__name__)
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)


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

    Paths are absolute or relative to $DETECTRON2_DATASETS. As published, training treats boxes around groups
    like others and does not expand classes along the hierarchy; evaluation does both.

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
        A sequence of dictionaries, one per image: ``file_name``, ``image_id`` (text), ``height``, ``width``,
        ``negative_classes`` and ``positive_classes`` (verified for the image), and ``annotations``:
        ``bbox`` (XYXY, pixels of the image), ``bbox_mode``, ``category_id`` (0..K-1), ``iscrowd`` (0) and
        ``is_group``.
    """
    classes = read_classes(classes_file)
    ancestors = np.eye(len(classes.labels), dtype=bool)
    if hierarchy_file is not None:
        ancestors = read_ancestors(hierarchy_file, classes, relations)
    content = annotations.read(classes)
    box_counts = np.diff(content.starts)
    chosen = np.flatnonzero(box_counts) if filter_empty else np.arange(len(box_counts))
    folder = resolve(image_root)
    if not len(chosen):
        raise UserError(
            f"data set {name}: {annotations.file} has no usable image; with filter_empty an image needs boxes"
        )
    if not folder.is_dir():
        raise UserError(f"data set {name}: image_root {folder} is not a folder; name that of the images")
    ids, files = ([text.decode() for text in texts[chosen]] for texts in (content.ids, content.files))
    sizes = image_sizes(ids, folder, files, sizes_file)
    message = f"data set {name}: {len(chosen)} of {len(box_counts)} images, {box_counts.sum()} boxes"
    log_first_n(logging.INFO, message, key="message", name=__name__)
    options = {"hierarchy_file": hierarchy_file, "relations": relations, "sizes_file": sizes_file}
    options |= {"filter_empty": filter_empty, "inclusive_ends": inclusive_ends}
    load = partial(open_images_dataset, name, annotations, classes_file, image_root, **options)
    entries = {
        "annotation_file": str(resolve(annotations.file)),
        "image_root": str(folder),
        "evaluator_type": "open_images",
        "thing_classes": classes.names,
        "class_labels": classes.labels,
        "class_ancestors": [np.flatnonzero(row).tolist() for row in ancestors],
        "inclusive_ends": inclusive_ends,
    }
    register(name, entries, load)
    return OpenImagesRecords(content, folder, chosen, sizes, inclusive_ends)


class OpenImagesRecords(Sequence):
    """Dictionaries made on demand from arrays, because the challenge has 12 million boxes.

    The loaders keep this as it is, and class-aware sampling reads :meth:`classes`. ``chosen`` are the numbers
    of the images to give, ``sizes`` (len(chosen), 2) their heights and widths.
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
        own = slice(content.starts[image], content.starts[image + 1])
        boxes = content.boxes[own] * [width, height, width, height] + [0.0, 0.0, self.end, self.end]
        objects = zip(
            boxes.tolist(), content.classes[own].tolist(), content.groups[own].tolist(), strict=True
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
        own = np.arange(counts.sum()) + np.repeat(starts[self.chosen] - np.cumsum(counts) + counts, counts)
        return np.repeat(np.arange(len(self)), counts), self.content.classes[own]


def image_sizes(ids: Sequence[str], folder: Path, files: Sequence[str], sizes_file: str | None) -> np.ndarray:
    """Return the sizes (I, 2) int64, (height, width), of images as they are read.

    Args:
        ids, files: identifiers of the images, and their paths in the folder.
        sizes_file: CSV with the columns ImageID, Width, Height; where it is missing or lacks images, they
            are looked up and written to it. None looks them up each time.
    """
    file, known = resolve(sizes_file) if sizes_file else None, {}
    if file and file.is_file():
        for line, (identifier, *sides) in csv_rows(file, ["ImageID", "Height", "Width"]):
            if not all(side.isdecimal() and int(side) > 0 for side in sides):
                raise malformed(
                    file, line, f"height {sides[0]!r} and width {sides[1]!r} are not both above 0"
                )
            known[identifier] = int(sides[0]), int(sides[1])
    unknown = [number for number, identifier in enumerate(ids) if identifier not in known]
    if unknown:
        _LOGGER.info("looking up the sizes of %d images", len(unknown))
        with ThreadPoolExecutor() as threads:
            sizes = threads.map(size_of, (folder / files[number] for number in unknown))
            known.update({ids[number]: size for number, size in zip(unknown, sizes, strict=True)})
        if file:
            _write_sizes(file, known)
    return np.array([known[identifier] for identifier in ids], np.int64).reshape(-1, 2)


def size_of(path: Path) -> tuple[int, int]:
    """Return (height, width) of an image file, turned as its EXIF orientation says, without decoding it."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(_ORIENTATION) in _TURNED
    # Broken and far too large images raise the others.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        what = error.strerror or "it is no image" if isinstance(error, OSError) else error
        raise UserError(
            f"size of image {path} cannot be read ({what}); correct image_root or the annotations"
        ) from error
    return (width, height) if turned else (height, width)


def _write_sizes(file: Path, sizes: dict[str, tuple[int, int]]) -> None:
    lines = ["ImageID,Width,Height", *(f"{name},{width},{height}" for name, (height, width) in sizes.items())]
    try:
        write_file(file, "\n".join(lines) + "\n")
    except UserError as error:
        _LOGGER.warning("sizes of images are not kept: %s", error)


def read_ancestors(path: str | Path, classes: ClassList, relations: Sequence[str]) -> np.ndarray:
    """Read the hierarchy.

    Args:
        path: the official JSON: nested objects with ``LabelName`` and lists of such objects under
            ``Subcategory`` (is a) and ``Part`` (is a part of). A label may stand at several places.
        classes: labels that are no class (as the root, Entity) stand only between others.
        relations: lists to follow.

    Returns:
        (K, K) bool: row = class, columns = the class itself and all its ancestors.
    """
    path = existing(path)
    try:
        with opened(path) as file:
            root = json.load(file)
    except (ValueError, RecursionError) as error:
        raise UserError(f"hierarchy {path} is not JSON ({error}); was the download cut short?") from error
    parents: dict[str, set[str]] = {}
    for label, parent in _entries(path, root, relations):
        parents.setdefault(label, set()).update([parent] if parent else [])
    numbers = classes.numbers()
    if not any(label in numbers for label in parents):
        raise UserError(f"hierarchy {path} has none of the {len(numbers)} classes of {classes.path}")
    above: dict[str, set[str]] = {}
    try:
        # Parents come first. Sorted, so that of several cycles always the same is reported.
        for label in TopologicalSorter({k: sorted(parents[k]) for k in sorted(parents)}).static_order():
            above[label] = parents[label].union(*(above[parent] for parent in parents[label]))
    except CycleError as error:
        # From above to below, the first label again at the end.
        circle = error.args[1][:0:-1]
        start = circle.index(min(circle))
        text = " below ".join((*circle[start:], *circle[:start], circle[start]))
        raise UserError(f"hierarchy {path} has a cycle: {text}; remove one of these entries") from error
    ancestors = np.eye(len(numbers), dtype=bool)
    for label in above.keys() & numbers.keys():
        ancestors[numbers[label], [numbers[other] for other in above[label] if other in numbers]] = True
    return ancestors


def _entries(path: Path, root: object, relations: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Yield each label of the hierarchy's objects with the label that it stands below."""
    waiting: list[tuple[object, str | None]] = [(root, None)]
    while waiting:
        node, parent = waiting.pop()
        if not isinstance(node, dict) or not isinstance(node.get("LabelName"), str):
            raise UserError(f"hierarchy {path}: an entry below {parent or 'the top'} has no LabelName")
        label = node["LabelName"]
        yield label, parent
        for relation in relations:
            children = node.get(relation, [])
            if not isinstance(children, list):
                raise UserError(f"hierarchy {path}: {relation} of {label} is not a list")
            waiting += [(child, label) for child in children]
