"""Annotations in a form that every implementation of COCO evaluation understands alike."""

from __future__ import annotations

import logging
import math
from collections import Counter
from functools import cached_property
from typing import Any

from pycocotools.coco import COCO

from htd.errors import UserError
from htd.evaluation.backends import quiet
from htd.segmentation import valid_segmentation

logger = logging.getLogger(__name__)

TASKS = ("bbox", "segm")


class TaskAnnotations:
    """The objects of an annotation file that a model is to find, by task.

    An object without a valid mask (``htd.segmentation``) counts in ``bbox`` alone. In ``segm`` it is
    background, as in a training with masks, so a detection of it is false. An annotation without a box of
    four numbers counts in neither.

    Args:
        content: the file; it is changed in place and becomes the ground truth of ``bbox``.
        where: name of the file, for messages.
    """

    def __init__(self, content: COCO, where: str):
        _check_ids(content, where)
        self._boxes, self._where = content, where
        # Some implementations fail on an invalid segmentation even where they need none.
        self._segmentations = _clean(content)

    def of(self, task: str) -> COCO:
        """Return the ground truth of ``"bbox"`` or ``"segm"``."""
        return self._masks if task == "segm" else self._boxes

    @property
    def tasks(self) -> list[str]:
        """The tasks for which there is ground truth; all where there are no annotations."""
        entries = self._boxes.dataset.get("annotations", [])
        with_masks = not entries or any(self._segmentation(entry) for entry in entries)
        return [task for task in TASKS if with_masks or task != "segm"]

    @cached_property
    def _masks(self) -> COCO:
        entries = self._boxes.dataset["annotations"]
        kept = [entry | {"segmentation": self._segmentation(entry)} for entry in entries]
        kept = [entry for entry in kept if entry["segmentation"]]
        if len(kept) < len(entries):
            without = len(entries) - len(kept)
            logger.warning("%s: segm leaves out %d objects without a valid mask", self._where, without)
        masks = COCO()
        masks.dataset = self._boxes.dataset | {"annotations": kept}
        with quiet():
            masks.createIndex()
        return masks

    def _segmentation(self, entry: dict) -> list | dict | None:
        image = self._boxes.imgs[entry["image_id"]]
        if "height" not in image or "width" not in image:
            return None
        return valid_segmentation(self._segmentations.get(entry["id"]), (image["height"], image["width"]))


def _check_ids(content: COCO, where: str) -> None:
    annotations = content.dataset.get("annotations", [])
    repeated = [key for key, count in Counter(entry["id"] for entry in annotations).items() if count > 1]
    if repeated:
        raise UserError(
            f"annotation file {where}: {len(repeated)} annotation ids are repeated (first: {repeated[:5]})"
        )
    wrong = [image for image in content.imgs if not isinstance(image, int) or image < 0]
    if wrong:
        raise UserError(f"annotation file {where}: image ids {wrong[:5]} are not whole numbers from 0")


def _clean(content: COCO) -> dict[int, Any]:
    """Complete and renumber the annotations, in place; return their segmentations by new id."""
    for image in content.imgs.values():
        for side in {"height", "width"} & image.keys():
            value = image.pop(side)
            if isinstance(value, int | float) and math.isfinite(value) and value >= 1:
                image[side] = int(value)
    kept = [
        entry
        for entry in content.dataset.get("annotations", [])
        if entry["image_id"] in content.imgs and entry["category_id"] in content.cats and _has_box(entry)
    ]
    for number, entry in enumerate(kept, start=1):
        # pycocotools takes a match with annotation 0 for none, so ids count from 1.
        entry["id"] = number
        entry["iscrowd"] = int(entry.get("iscrowd") or 0)
        if entry.get("area") is None:
            entry["area"] = entry["bbox"][2] * entry["bbox"][3]
    segmentations = {entry["id"]: entry.pop("segmentation", None) for entry in kept}
    if "annotations" in content.dataset:
        content.dataset["annotations"] = kept
    with quiet():
        content.createIndex()
    return segmentations


def _has_box(entry: dict) -> bool:
    box = entry.get("bbox")
    return isinstance(box, list) and len(box) == 4 and all(isinstance(value, int | float) for value in box)
