"""Semantic maps of training samples: the files, how they are read, and how they move with the image."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.data.transforms import AugInput
from detectron2.utils.logger import log_first_n
from fvcore.transforms.transform import Transform
from PIL import Image

from htd.errors import UserError

RECORD = "semantic_maps.json"
_TOOL = "tools/draw_semantic_maps.py"
_WITHOUT_MAPS = "configs/htc/htc_without_semantic_r50_fpn_1x.py"
_DRAWN_MAPS = "configs/htc/htc_r50_fpn_1x_instance_maps.py"
_DOWNLOAD = "COCO-Stuff's maps are those of stuffthingmaps_trainval2017.zip"
_KINDS = {0: "gray", 2: "3 channels", 3: "a palette", 4: "2 channels", 6: "4 channels"}
_HEADER = struct.Struct(">8s4x4sIIBB")
_SHIFT = 256


class NoSemanticMaps:
    """For data without semantic maps: samples have no ``sem_seg``."""

    def attach(self, record: dict, image: np.ndarray) -> AugInput:
        """Return the image (H, W, 3) as the input of augmentations."""
        return AugInput(image)

    def target(self, augmented: AugInput) -> dict:
        """Return nothing to put into a sample."""
        return {}


class SemanticMaps:
    """Reads the semantic map of each image and moves it together with the image.

    Paper: Hybrid Task Cascade for Instance Segmentation, section 3.2, https://arxiv.org/abs/1901.07518.
    The maps of COCO-Stuff hold category id - 1: 0..90 things, 91..181 stuff; the published head has
    183 classes.

    Args:
        num_classes: pixel values 0..num_classes-1 are classes.
        background: one more class, num_classes, is the background, as in maps that are drawn from masks.
        ignore_value: pixel value without a class; also of pixels that a transform adds.
    """

    def __init__(self, num_classes: int = 183, *, background: bool = False, ignore_value: int = 255):
        self.channels, self.ignore_value = num_classes + int(background), ignore_value
        if not 1 <= self.channels <= ignore_value <= 255:
            raise UserError(
                f"semantic maps of 8 bits cannot hold {self.channels} classes beside "
                f"ignore_value={ignore_value}; a config without maps is {_WITHOUT_MAPS}"
            )

    def read(self, file_name: str, size: tuple[int, int]) -> np.ndarray:
        """Return the values of an 8-bit gray PNG as (H, W) uint8; ``size`` is the (H, W) of its image."""
        try:
            data = Path(file_name).read_bytes()
        except FileNotFoundError as error:
            raise _missing(f"semantic map {file_name}") from error
        except OSError as error:
            raise UserError(f"semantic map {file_name} cannot be read ({error.strerror})") from error
        header = png_header(data)
        if header is None:
            raise UserError(f"semantic map {file_name} is not a PNG; maps are 8-bit gray PNGs")
        _, depth, kind = header
        if (depth, kind) != (8, 0):
            raise UserError(
                f"semantic map {file_name} is a PNG of {_KINDS.get(kind, 'unknown colors')} with {depth} "
                f"bits, not of 8-bit gray; {_DOWNLOAD}"
            )
        try:
            with Image.open(io.BytesIO(data)) as image:
                values = np.asarray(image)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(
                f"semantic map {file_name} cannot be decoded ({len(data)} bytes); make it again"
            ) from error
        if values.shape != tuple(size):
            raise UserError(
                f"semantic map {file_name} is {values.shape[0]} x {values.shape[1]} pixels (height x width), "
                f"its image {size[0]} x {size[1]}; they have to be equal"
            )
        present = np.flatnonzero(np.bincount(values.reshape(-1), minlength=256))
        unknown = [int(value) for value in present if value >= self.channels and value != self.ignore_value]
        if unknown:
            raise UserError(
                f"semantic map {file_name} has the values {unknown}; classes are 0..{self.channels - 1}, and "
                f"{self.ignore_value} is without a class. {_DOWNLOAD}"
            )
        return values

    def attach(self, record: dict, image: np.ndarray) -> AugInput:
        """Return the image (H, W, 3) with its map as the input of augmentations.

        The record has the path of the map in ``sem_seg_file_name`` and, if it was drawn from masks, the
        number of classes without the background in ``sem_seg_drawn_classes``.
        """
        if "sem_seg_file_name" not in record:
            raise UserError(
                f"image {record['file_name']} has no semantic map; name the folder of the maps in "
                "dataloader.train.dataset.semantic_root"
            )
        file_name, drawn = record["sem_seg_file_name"], record.get("sem_seg_drawn_classes")
        # The values of a drawn map are all within the 183 of COCO-Stuff, so they would not tell.
        if drawn is not None and self.channels != drawn + 1:
            raise UserError(
                f"semantic map {file_name} was drawn for {drawn} classes and the background, the config's "
                f"semantic branch learns {self.channels} classes; take {_DRAWN_MAPS} and num_classes={drawn}"
            )
        return SemanticInput(image, self.read(file_name, image.shape[:2]), self.ignore_value)

    def target(self, augmented: AugInput) -> dict:
        """Return ``sem_seg`` (H, W) int64 at the size of the augmented image."""
        return {"sem_seg": torch.from_numpy(augmented.sem_seg.astype(np.int64))}


class SemanticInput(AugInput):
    """Image and map (H, W) uint8, whose new pixels get the ignore value wherever a transform adds some."""

    def __init__(self, image: np.ndarray, sem_seg: np.ndarray, ignore_value: int):
        super().__init__(image, sem_seg=sem_seg)
        self.ignore_value = ignore_value

    def transform(self, tfm: Transform) -> None:
        """Move image and map, in place."""
        self.image = tfm.apply_image(self.image)
        # Most transforms fill with 0, which is a class, so the map is shifted above any fill value first. As
        # floats, maps are resized by OpenCV's rule in Detectron2's transforms, too: pixel i is taken from
        # floor(i * old / new).
        moved = tfm.apply_segmentation(self.sem_seg.astype(np.float32) + _SHIFT)
        self.sem_seg = np.where(moved < _SHIFT, self.ignore_value, moved - _SHIFT).astype(np.uint8)


def png_header(data: bytes) -> tuple[tuple[int, int], int, int] | None:
    """Return ((H, W), bits per channel, color type) from the first bytes of a PNG, None for other files."""
    if len(data) < _HEADER.size:
        return None
    signature, chunk, width, height, depth, kind = _HEADER.unpack_from(data)
    return ((height, width), depth, kind) if (signature, chunk) == (b"\x89PNG\r\n\x1a\n", b"IHDR") else None


def map_path(folder: Path, file_name: str) -> Path:
    """Return the path of the map of an image: its file name with .png, in the same sub-folder."""
    name = Path(file_name)
    return folder / (Path(name.name) if name.is_absolute() else name).with_suffix(".png")


def _missing(what: str) -> UserError:
    return UserError(
        f"{what} does not exist; correct dataloader.train.dataset.semantic_root, draw maps from the masks "
        f"with {_TOOL}, or train without maps: {_WITHOUT_MAPS}"
    )


def check_maps(
    name: str, folder: Path, paths: Sequence[Path], classes: Sequence[str], json_file: Path
) -> int | None:
    """Check, before a training starts, that every map is there and that drawn ones fit the classes.

    Logs a warning if the maps were drawn from another state of the annotations.

    Args:
        name, classes, json_file: name, class names and annotation file of the data set.
        folder, paths: folder of the maps, and the map of each image.

    Returns:
        The number of classes, without the background, that the maps were drawn for; None for maps from
        elsewhere.
    """
    if not folder.is_dir():
        raise _missing(f"data set {name}: folder {folder} of the semantic maps")
    drawn, cure = read_record(folder), "add them"
    if drawn is not None:
        if drawn["classes"] != list(classes):
            raise UserError(
                f"data set {name}: the semantic maps in {folder} were drawn for other classes "
                f"({len(drawn['classes'])}, of {drawn['annotation_file']}); draw them into another folder "
                f"with {_TOOL}"
            )
        cure = f"draw them with {_TOOL}, which goes on where it stopped"
        if drawn["sha256"] != fingerprint(json_file):
            # The tool does not add to maps of another state.
            cure = f"draw all of them into another folder with {_TOOL}"
            message = (
                f"data set {name}: the semantic maps in {folder} were drawn from another state of the "
                "annotations; draw them again into another folder if objects have changed"
            )
            log_first_n(logging.WARNING, message, key="message", name=__name__)
    # Listing a folder is much quicker than asking for each of its files.
    parents = {path.parent for path in paths}
    present = {parent: set(os.listdir(parent)) for parent in parents if parent.is_dir()}
    absent = [path for path in paths if path.name not in present.get(path.parent, ())]
    if absent:
        raise UserError(
            f"data set {name}: {len(absent)} of {len(paths)} semantic maps are missing, first {absent[0]}; "
            f"{cure}, or correct dataloader.train.dataset.semantic_root"
        )
    return None if drawn is None else len(classes)


def fingerprint(path: Path) -> str:
    """Return the SHA-256 of a file, which may be too large to be held in memory twice."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_record(folder: Path) -> dict | None:
    """Return what the drawing tool has noted beside its maps, or None for maps from elsewhere."""
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_bytes())
        return {key: record[key] for key in ("format", "annotation_file", "sha256", "classes")}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not the record that {_TOOL} writes; remove its folder and draw the maps again"
        ) from error
