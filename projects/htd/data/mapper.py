"""From a data set's dictionary to the input of a model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from detectron2.data.detection_utils import (
    annotations_to_instances,
    filter_empty_instances,
    transform_instance_annotations,
)
from detectron2.data.transforms import AugInput, Augmentation, AugmentationList

from htd.data.reader import read_image
from htd.errors import UserError


class DetectionMapper:
    """Read an image, augment it, and make the training targets.

    Args:
        is_train: make ``instances``; otherwise annotations are dropped.
        augmentations: applied in this order, drawing from the global random generators.
        image_format: channel order of the result, ``"RGB"`` or ``"BGR"``.
        mask_format: ``"polygon"`` or ``"bitmask"``, for data sets that keep segmentations.
        reader: called with (file name, image format), returns (H, W, 3) uint8.
    """

    def __init__(
        self,
        *,
        is_train: bool,
        augmentations: Sequence[Augmentation],
        image_format: str = "RGB",
        mask_format: str = "polygon",
        reader: Callable[[str, str], np.ndarray] = read_image,
    ):
        self.is_train = is_train
        self.augmentations = AugmentationList(list(augmentations))
        self.image_format = image_format
        self.mask_format = mask_format
        self.reader = reader

    def __call__(self, record: dict) -> dict:
        """Map one dictionary; it is not changed.

        Args:
            record: ``file_name``, ``height``, ``width`` and, for training, ``annotations``.

        Returns:
            The record without ``annotations``, with ``image`` (3, H, W) uint8 at network size and,
            for training, ``instances`` with ``gt_boxes`` (absolute XYXY pixels of the resized image,
            clipped to it), ``gt_classes`` and maybe ``gt_masks``. Crowd regions and boxes that
            clipping leaves empty are not in it; it may hold no object at all.

        Raises:
            UserError: the image is missing, unreadable or not as large as the record says.
        """
        image = self.reader(record["file_name"], self.image_format)
        _check_size(record, image)
        augmented = AugInput(image)
        transforms = self.augmentations(augmented)
        mapped = {key: value for key, value in record.items() if key != "annotations"}
        mapped["image"] = torch.from_numpy(np.array(augmented.image.transpose(2, 0, 1), order="C"))
        if self.is_train:
            size = augmented.image.shape[:2]
            mapped["instances"] = self._instances(record["annotations"], transforms, size)
        return mapped

    def _instances(self, annotations: list[dict], transforms, size: tuple[int, int]):
        transformed = []
        for item in annotations:
            if not item["iscrowd"]:
                item = transform_instance_annotations(copy.deepcopy(item), transforms, size)
                # Lists, because torch copies a list of arrays one number at a time.
                transformed.append(item | {"bbox": item["bbox"].tolist()})
        instances = annotations_to_instances(transformed, size, mask_format=self.mask_format)
        return filter_empty_instances(instances)


def _check_size(record: dict, image: np.ndarray) -> None:
    expected = (record["height"], record["width"])
    if image.shape[:2] != expected:
        turned = image.shape[:2] == expected[::-1]
        hint = "the file's EXIF orientation turns it; were the boxes drawn on the unturned image?"
        raise UserError(
            f"image {record['file_name']} is {image.shape[0]} x {image.shape[1]} pixels (height x width), "
            f"the annotation file says {expected[0]} x {expected[1]}"
            + (f": {hint}" if turned else "; correct one of them")
        )
