"""From a data set's dictionary to the input of a model: reading, augmentation, targets."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.data.detection_utils import annotations_to_instances, transform_instance_annotations
from detectron2.data.transforms import Augmentation, AugmentationList
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks

from htd.data.semantic import NoSemanticMaps, SemanticMaps
from htd.errors import UserError
from htd.layers import ContinuousBoxes
from htd.segmentation import rasterized

_SMALLEST_SIDE = 1e-5  # of a box that clipping has left, in pixels, as in Detectron2


def read_image(file_name: str, image_format: str) -> np.ndarray:
    """Decode an image as (H, W, 3) uint8 in the order ``"RGB"`` or ``"BGR"``.

    Gray images get three equal channels, transparency is dropped, and the orientation that a
    camera has noted (EXIF) is applied.
    """
    if image_format not in ("RGB", "BGR"):
        raise UserError(f"image format {image_format!r} is unknown; take RGB or BGR")
    try:
        data = Path(file_name).read_bytes()
    except OSError as error:
        raise UserError(f"image {file_name} cannot be read ({error.strerror})") from error
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if image is None:
        raise UserError(f"image {file_name} cannot be decoded ({len(data)} bytes); replace or remove it")
    return image if image_format == "BGR" else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


class CachedReader:
    """``read_image`` that keeps every decoded image in memory, each loader worker its own copy."""

    def __init__(self):
        self._images: dict[tuple[str, str], np.ndarray] = {}

    def __call__(self, file_name: str, image_format: str) -> np.ndarray:
        """Return the image as ``read_image`` does; the array is shared and must not be written to."""
        key = (file_name, image_format)
        if key not in self._images:
            image = read_image(file_name, image_format)
            image.flags.writeable = False
            self._images[key] = image
        return self._images[key]


class DetectionMapper:
    """Read an image and what belongs to it, augment all with one transform, and make the training targets.

    Args:
        is_train: make ``instances``; otherwise annotations are dropped.
        augmentations: applied in this order, drawing from the global random generators.
        image_format: channel order of the result, ``"RGB"`` or ``"BGR"``.
        mask_format: masks of data sets that keep segmentations. None makes none; ``"polygon"`` moves the
            corners of polygons, which RLEs do not have; ``"bitmask"`` rasterizes at the size of the original
            image and moves the pixels to the nearest neighbor, as the published HTC code does.
        semantic_maps: adds the semantic map of each image, or nothing.
        convention: what the corners of boxes mean when they are resized (``ResizeCV2``) and clipped; that of
            the model.
        reader: called with (file name, image format), returns (H, W, 3) uint8.
    """

    def __init__(
        self,
        *,
        is_train: bool,
        augmentations: Sequence[Augmentation],
        image_format: str = "RGB",
        mask_format: str | None = None,
        semantic_maps: SemanticMaps | NoSemanticMaps | None = None,
        convention: ContinuousBoxes | None = None,
        reader: Callable[[str, str], np.ndarray] = read_image,
    ):
        if mask_format not in _MASKS:
            raise UserError(
                f"mask_format {mask_format!r} is unknown; take polygon, bitmask, or null for none"
            )
        self.is_train = is_train
        self.augmentations = AugmentationList(list(augmentations))
        self.image_format = image_format
        self.mask_format = mask_format
        self.masks = _MASKS[mask_format]()
        self.semantic_maps = semantic_maps or NoSemanticMaps()
        self.convention = convention or ContinuousBoxes()
        self.reader = reader

    def __call__(self, record: dict) -> dict:
        """Map one dictionary; it is not changed.

        Args:
            record: of ``coco_dataset`` or ``open_images_dataset``.

        Returns:
            The record without ``annotations``, with ``image`` (3, H, W) uint8 at network size and,
            for training, ``instances`` with ``gt_boxes`` (absolute XYXY pixels of the resized image,
            clipped to it), ``gt_classes`` and, with a mask format, ``gt_masks``. Crowd regions and
            objects of which the transform leaves no box or no mask are not in it; it may hold no object
            at all. With semantic maps also ``sem_seg`` (H, W) int64, 255 where there is no class.
        """
        image = self.reader(record["file_name"], self.image_format)
        _check_size(record, image)
        augmented = self.semantic_maps.attach(record, image)
        augmented.box_convention = self.convention
        transforms = self.augmentations(augmented)
        mapped = {key: value for key, value in record.items() if key != "annotations"}
        mapped["image"] = torch.from_numpy(np.array(augmented.image.transpose(2, 0, 1), order="C"))
        if self.is_train:
            mapped["instances"] = self._instances(record, transforms, augmented.image.shape[:2])
        return mapped | self.semantic_maps.target(augmented)

    def _instances(self, record: dict, transforms, size: tuple[int, int]) -> Instances:
        original = (record["height"], record["width"])
        kept = []
        for item in record["annotations"]:
            if not item["iscrowd"]:
                item = self.masks.prepare(copy.deepcopy(item), original)
                item = self.masks.finish(transform_instance_annotations(item, transforms, size))
                if item and min(item["bbox"][2:] - item["bbox"][:2]) > _SMALLEST_SIDE:
                    # Lists, because torch copies a list of arrays one number at a time.
                    kept.append(item | {"bbox": item["bbox"].tolist()})
        instances = annotations_to_instances(kept, size, mask_format=self.mask_format)
        # Detectron2 has clipped to [0, side]; the convention may clip further, never less.
        instances.gt_boxes = Boxes(self.convention.clip(instances.gt_boxes.tensor, size))
        return instances if kept else Instances(size, **instances.get_fields(), **self.masks.empty(size))


def _check_size(record: dict, image: np.ndarray) -> None:
    expected = (record["height"], record["width"])
    if image.shape[:2] != expected:
        turned = image.shape[:2] == expected[::-1]
        hint = "the file's EXIF orientation turns it" if turned else "correct one of them"
        raise UserError(
            f"image {record['file_name']} is {image.shape[0]} x {image.shape[1]} pixels (height x width), "
            f"the annotation file says {expected[0]} x {expected[1]}; {hint}"
        )


class _NoMasks:
    """Targets without ``gt_masks``.

    ``prepare`` is given an annotation and the (H, W) of its image before the transforms; ``finish`` the moved
    annotation, and returns None if nothing of the object is left; ``empty`` returns the fields of a target
    without objects besides boxes and classes.
    """

    def prepare(self, item: dict, size: tuple[int, int]) -> dict:
        return {key: value for key, value in item.items() if key != "segmentation"}

    def finish(self, item: dict) -> dict | None:
        return item

    def empty(self, size: tuple[int, int]) -> dict:
        return {}


class _Polygons:
    def prepare(self, item: dict, size: tuple[int, int]) -> dict:
        if not isinstance(_segmentation(item), list):
            raise UserError(
                f"the mask of annotation {item.get('id')} is an RLE, which mask_format polygon cannot take; "
                "set dataloader.train.mapper.mask_format=bitmask"
            )
        return item

    def finish(self, item: dict) -> dict | None:
        return item if item["segmentation"] else None

    def empty(self, size: tuple[int, int]) -> dict:
        return {"gt_masks": PolygonMasks([])}


class _Bitmaps:
    def prepare(self, item: dict, size: tuple[int, int]) -> dict:
        return item | {"segmentation": rasterized(_segmentation(item), size)}

    def finish(self, item: dict) -> dict | None:
        # Where a transform pads, it may have filled masks with the ignore value of semantic maps.
        mask = item["segmentation"] == 1
        return item | {"segmentation": mask} if mask.any() else None

    def empty(self, size: tuple[int, int]) -> dict:
        return {"gt_masks": BitMasks(torch.zeros((0, *size), dtype=torch.bool))}


_MASKS = {None: _NoMasks, "polygon": _Polygons, "bitmask": _Bitmaps}


def _segmentation(item: dict) -> list | dict:
    if "segmentation" not in item:
        raise UserError(
            f"annotation {item.get('id')} comes without a mask; set dataloader.train.dataset.masks=True, or "
            "take a config without masks"
        )
    return item["segmentation"]
