"""From a data set's dictionary to the input of a model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from detectron2.data.detection_utils import (
    annotations_to_instances,
    transform_instance_annotations,
)
from detectron2.data.transforms import Augmentation, AugmentationList
from detectron2.structures import Boxes, Instances

from htd.data.masks import mask_format as find_mask_format
from htd.data.reader import read_image
from htd.data.semantic import NoSemanticMaps, SemanticMaps
from htd.errors import UserError
from htd.layers import ContinuousBoxes

_SMALLEST_SIDE = 1e-5  # of a box that clipping has left, in pixels, as in Detectron2


class DetectionMapper:
    """Read an image and what belongs to it, augment all with one transform, and make the training targets.

    Args:
        is_train: make ``instances``; otherwise annotations are dropped.
        augmentations: applied in this order, drawing from the global random generators.
        image_format: channel order of the result, ``"RGB"`` or ``"BGR"``.
        mask_format: ``"polygon"`` or ``"bitmask"`` makes masks, of data sets that keep segmentations;
            None makes none. See ``htd.data.masks.mask_format``.
        semantic_maps: adds the semantic map of each image, or nothing.
        convention: how boxes are clipped to the resized image; ``InclusiveBoxes`` for detectors whose boxes
            name their first and last pixels, which also need ``InclusiveResizeCV2`` in ``augmentations``.
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
        self.is_train = is_train
        self.augmentations = AugmentationList(list(augmentations))
        self.image_format = image_format
        self.mask_format = mask_format
        self.masks = find_mask_format(mask_format)
        self.semantic_maps = semantic_maps or NoSemanticMaps()
        self.convention = convention or ContinuousBoxes()
        self.reader = reader

    def __call__(self, record: dict) -> dict:
        """Map one dictionary; it is not changed.

        Args:
            record: ``file_name``, ``height``, ``width``, for training ``annotations``, and
                ``sem_seg_file_name`` if there are semantic maps.

        Returns:
            The record without ``annotations``, with ``image`` (3, H, W) uint8 at network size and,
            for training, ``instances`` with ``gt_boxes`` (absolute XYXY pixels of the resized image,
            clipped to it), ``gt_classes`` and, with a mask format, ``gt_masks``. Crowd regions and
            objects of which the transform leaves no box or no mask are not in it; it may hold no object
            at all. With semantic maps also ``sem_seg`` (H, W) int64, 255 where there is no class.

        Raises:
            UserError: image or map is missing, unreadable or of another size than the record says.
        """
        image = self.reader(record["file_name"], self.image_format)
        _check_size(record, image)
        augmented = self.semantic_maps.attach(record, image)
        transforms = self.augmentations(augmented)
        mapped = {key: value for key, value in record.items() if key != "annotations"}
        mapped["image"] = torch.from_numpy(np.array(augmented.image.transpose(2, 0, 1), order="C"))
        if self.is_train:
            mapped["instances"] = self._instances(record, transforms, augmented.image.shape[:2])
        return mapped | self.semantic_maps.target(augmented)

    def _instances(self, record: dict, transforms, size: tuple[int, int]) -> Instances:
        original = (record["height"], record["width"])
        left = []
        for item in record["annotations"]:
            if not item["iscrowd"]:
                item = self.masks.prepare(copy.deepcopy(item), original)
                item = self.masks.finish(transform_instance_annotations(item, transforms, size))
                if item and min(item["bbox"][2:] - item["bbox"][:2]) > _SMALLEST_SIDE:
                    # Lists, because torch copies a list of arrays one number at a time.
                    left.append(item | {"bbox": item["bbox"].tolist()})
        instances = annotations_to_instances(left, size, mask_format=self.mask_format)
        # What is clipped to [0, side] already may be clipped further, never less.
        instances.gt_boxes = Boxes(self.convention.clip(instances.gt_boxes.tensor, size))
        return instances if left else Instances(size, **instances.get_fields(), **self.masks.empty(size))


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
