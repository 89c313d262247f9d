"""The masks of training targets: none, polygons, or bitmaps."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from detectron2.structures import BitMasks, PolygonMasks

from htd.errors import UserError
from htd.segmentation import rasterized


class MaskFormat(NamedTuple):
    """How segmentations become ``gt_masks``.

    Attributes:
        prepare: called with an annotation and the (H, W) of its image before the transforms; returns the
            annotation that they move.
        finish: called with the moved annotation; returns it as the target is made of it, or None if
            nothing of its mask is left.
        empty: called with the (H, W) of the moved image; returns the fields of a target without objects
            besides boxes and classes.
    """

    prepare: Callable[[dict, tuple[int, int]], dict]
    finish: Callable[[dict], dict | None]
    empty: Callable[[tuple[int, int]], dict]


def mask_format(name: str | None) -> MaskFormat:
    """Return the format of that name.

    Args:
        name: None leaves masks out; ``"polygon"`` moves the corners of polygons, which RLEs do not have;
            ``"bitmask"`` rasterizes at the size of the original image and moves the pixels to the nearest
            neighbor, as the published HTC code does.

    Raises:
        UserError: there is no such format.
    """
    if name not in _FORMATS:
        known = ", ".join(repr(key) for key in _FORMATS if key)
        raise UserError(f"mask_format {name!r} is unknown; take one of {known}, or null for no masks")
    return _FORMATS[name]


def _without(item: dict, size: tuple[int, int]) -> dict:
    return {key: value for key, value in item.items() if key != "segmentation"}


def _segmentation(item: dict) -> list | dict:
    if "segmentation" not in item:
        raise UserError(
            f"annotation {item.get('id')} comes without a mask; set dataloader.train.dataset.masks=True, or "
            "take a config without masks, such as configs/htc/htc_box_r50_fpn_1x.py"
        )
    return item["segmentation"]


def _polygons(item: dict, size: tuple[int, int]) -> dict:
    if not isinstance(_segmentation(item), list):
        raise UserError(
            f"the mask of annotation {item.get('id')} is an RLE, which mask_format 'polygon' cannot take; "
            "set dataloader.train.mapper.mask_format=bitmask"
        )
    return item


def _bitmap(item: dict, size: tuple[int, int]) -> dict:
    return item | {"segmentation": rasterized(_segmentation(item), size)}


def _as_it_is(item: dict) -> dict:
    return item


def _with_polygons(item: dict) -> dict | None:
    return item if item["segmentation"] else None


def _with_pixels(item: dict) -> dict | None:
    # Where a transform pads, it may have filled masks with the ignore value of semantic maps.
    mask = item["segmentation"] == 1
    return item | {"segmentation": mask} if mask.any() else None


def _nothing(size: tuple[int, int]) -> dict:
    return {}


def _no_polygons(size: tuple[int, int]) -> dict:
    return {"gt_masks": PolygonMasks([])}


def _no_bitmaps(size: tuple[int, int]) -> dict:
    return {"gt_masks": BitMasks(torch.zeros((0, *size), dtype=torch.bool))}


_FORMATS = {
    None: MaskFormat(_without, _as_it_is, _nothing),
    "polygon": MaskFormat(_polygons, _with_polygons, _no_polygons),
    "bitmask": MaskFormat(_bitmap, _with_pixels, _no_bitmaps),
}
