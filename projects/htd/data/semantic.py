"""Semantic maps of training samples: read as they are, and moved together with the image."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import torch
from detectron2.data.transforms import AugInput
from fvcore.transforms.transform import Transform
from PIL import Image

from htd.data.semantic_files import WITHOUT_MAPS, check_drawn, missing
from htd.errors import UserError

_KINDS = {0: "gray", 2: "3 channels", 3: "a palette", 4: "2 channels", 6: "4 channels"}
_HEADER = struct.Struct(">8s4x4sIIBB")
_SHIFT = 256
_RIGHT_DOWNLOAD = "stuffthingmaps_trainval2017.zip, not of stuff_train2017_pixelmaps"


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

    Paper: Hybrid Task Cascade for Instance Segmentation, section 3.2.
    The maps of COCO-Stuff hold category id - 1: 0..90 things, 91..181 stuff; the published head has
    183 classes.

    Args:
        num_classes: pixel values 0..num_classes-1 are classes.
        background: one more class, num_classes, is the background, as in maps that are drawn from masks.
        ignore_value: pixel value without a class; what a transform adds to the image gets it, too.

    Raises:
        UserError: the classes do not fit below ``ignore_value``.
    """

    def __init__(self, num_classes: int = 183, *, background: bool = False, ignore_value: int = 255):
        self.channels, self.ignore_value = num_classes + int(background), ignore_value
        if not 1 <= self.channels <= ignore_value <= 255:
            raise UserError(
                f"semantic maps of 8 bits cannot hold {self.channels} classes beside "
                f"ignore_value={ignore_value}; a config without maps is {WITHOUT_MAPS}"
            )

    def read(self, file_name: str, size: tuple[int, int]) -> np.ndarray:
        """Return a map as (H, W) uint8, the values as they stand in the file.

        Args:
            file_name: an 8-bit gray PNG.
            size: (H, W) of the image.

        Raises:
            UserError: the file is missing, cannot be decoded, is of another kind or size, or has a value
                that is no class.
        """
        try:
            data = Path(file_name).read_bytes()
        except FileNotFoundError as error:
            raise missing(f"semantic map {file_name}") from error
        except OSError as error:
            raise UserError(f"semantic map {file_name} cannot be read ({error.strerror})") from error
        _check_kind(file_name, data)
        values = _decode(file_name, data)
        if values.shape != tuple(size):
            raise UserError(
                f"semantic map {file_name} is {values.shape[0]} x {values.shape[1]} pixels (height x width), "
                f"its image {size[0]} x {size[1]}; a map has to have the size of the image file"
            )
        self._check_values(file_name, values)
        return values

    def attach(self, record: dict, image: np.ndarray) -> AugInput:
        """Return the image (H, W, 3) with its map as the input of augmentations.

        Args:
            record: has the path of the map in ``sem_seg_file_name`` and, if it was drawn from masks, the
                number of classes without the background in ``sem_seg_drawn_classes``.

        Raises:
            UserError: the record names no map, the map was drawn and the classes here are others, or as
                ``read``.
        """
        if "sem_seg_file_name" not in record:
            raise UserError(
                f"image {record['file_name']} has no semantic map; name the folder of the maps in "
                "dataloader.train.dataset.semantic_root"
            )
        file_name, drawn = record["sem_seg_file_name"], record.get("sem_seg_drawn_classes")
        if drawn is not None:
            check_drawn(file_name, drawn, self.channels)
        return SemanticInput(image, self.read(file_name, image.shape[:2]), self.ignore_value)

    def target(self, augmented: AugInput) -> dict:
        """Return ``sem_seg`` (H, W) int64 at the size of the augmented image."""
        return {"sem_seg": torch.from_numpy(augmented.sem_seg.astype(np.int64))}

    def _check_values(self, file_name: str, values: np.ndarray) -> None:
        present = np.flatnonzero(np.bincount(values.reshape(-1), minlength=256))
        unknown = [int(value) for value in present if value >= self.channels and value != self.ignore_value]
        if unknown:
            raise UserError(
                f"semantic map {file_name} has the values {unknown}; classes are 0..{self.channels - 1}, and "
                f"{self.ignore_value} is without a class. Was it made for other classes? COCO-Stuff's maps "
                f"are those of {_RIGHT_DOWNLOAD}"
            )


class SemanticInput(AugInput):
    """Image and map (H, W) uint8, whose new pixels get the ignore value wherever a transform adds some."""

    def __init__(self, image: np.ndarray, sem_seg: np.ndarray, ignore_value: int):
        super().__init__(image, sem_seg=sem_seg)
        self.ignore_value = ignore_value

    def transform(self, tfm: Transform) -> None:
        """Move image and map, in place."""
        self.image = tfm.apply_image(self.image)
        # Transforms fill with values of their own, 0 for most: a class. So the values of the map are
        # lifted above all that they might take. As floats they are resized by OpenCV's rule in
        # Detectron2's transforms, too: pixel i is taken from floor(i * old / new).
        moved = tfm.apply_segmentation(self.sem_seg.astype(np.float32) + _SHIFT)
        self.sem_seg = np.where(moved < _SHIFT, self.ignore_value, moved - _SHIFT).astype(np.uint8)


def png_header(data: bytes) -> tuple[tuple[int, int], int, int] | None:
    """Return ((H, W), bits a channel, color type) from the first bytes of a PNG, or None for other files."""
    if len(data) < _HEADER.size:
        return None
    signature, chunk, width, height, depth, color = _HEADER.unpack_from(data)
    return ((height, width), depth, color) if (signature, chunk) == (b"\x89PNG\r\n\x1a\n", b"IHDR") else None


def _check_kind(file_name: str, data: bytes) -> None:
    header = png_header(data)
    if header is None:
        raise UserError(f"semantic map {file_name} is not a PNG; maps are 8-bit gray PNGs of class numbers")
    _, depth, color = header
    if (depth, color) != (8, 0):
        raise UserError(
            f"semantic map {file_name} is a PNG of {_KINDS.get(color, 'unknown colors')} with {depth} "
            "bits, not of 8-bit gray, so its pixels need not be class numbers; COCO-Stuff's maps are "
            f"those of {_RIGHT_DOWNLOAD}"
        )


def _decode(file_name: str, data: bytes) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(
            f"semantic map {file_name} cannot be decoded ({len(data)} bytes); make it again"
        ) from error
