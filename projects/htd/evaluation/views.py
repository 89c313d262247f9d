"""Views of an image, resized and maybe mirrored, and the way of boxes into a view and back.

Boxes are XYXY; sizes are (height, width).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.data.transforms import AugInput, Augmentation, AugmentationList
from torch import Tensor

from htd.errors import UserError
from htd.layers import ContinuousBoxes

# What a corner of the image may miss that of the view by, in pixels: a resize may scale by its wanted factor
# although the sides of its result are whole numbers.
_ROUNDING = 1.0


@dataclass(frozen=True)
class ViewFrame:
    """The pixels of one view of an image.

    Source: the published multi-view test, which scales, then mirrors, and undoes both in reverse. It scales
    by the wanted factor; here the sizes say how a view lies in its image, so that a view is mapped as any
    other input is: at the far side of an image that is up to half a pixel of the view away. Sizes need not
    be whole numbers: ``original_size`` = ``view_size`` / factor is the published mapping.

    Attributes:
        original_size: of the image.
        view_size: of the view, without padding.
        mirrored: the view shows the image left to right.
        convention: what the corners of a box mean, see :mod:`htd.layers.boxes`.
    """

    original_size: tuple[float, float]
    view_size: tuple[float, float]
    mirrored: bool
    convention: ContinuousBoxes

    def enter(self, boxes: Tensor) -> Tensor:
        """Bring boxes (..., 4) from the image into the view; nothing is clipped."""
        return self._mirror(self.convention.rescale(boxes, self.original_size, self.view_size))

    def leave(self, boxes: Tensor) -> Tensor:
        """Bring boxes (..., 4) from the view into the image; nothing is clipped."""
        return self.convention.rescale(self._mirror(boxes), self.view_size, self.original_size)

    def upright(self, masks: Tensor) -> Tensor:
        """Turn masks (..., M, M) in the frame of each box of the view into those of the box in the image."""
        return masks.flip(-1) if self.mirrored else masks

    def _mirror(self, boxes: Tensor) -> Tensor:
        """Mirror areas (..., 4), the same in both conventions: pixel a becomes pixel width - 1 - a."""
        if not self.mirrored:
            return boxes
        x1, y1, x2, y2 = boxes.unbind(dim=-1)
        width = self.view_size[1]
        return torch.stack([width - x2, y1, width - x1, y2], dim=-1)


class View:
    """One way of looking at an image.

    Args:
        augmentations: resizes, applied in this order; none leaves the image at its size.
        mirrored: show it left to right, after the resize.
    """

    def __init__(self, *, augmentations: Sequence[Augmentation], mirrored: bool = False):
        self.augmentations = AugmentationList(list(augmentations))
        self.mirrored = mirrored

    def __call__(self, image: Tensor) -> Tensor:
        """Return the view (3, h, w) of an image (3, H, W), in the same type.

        Raises:
            UserError: the augmentations do more than resize.
        """
        picture = AugInput(np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()))
        transforms = self.augmentations(picture)
        old, new = _corners(image.shape[1:]), _corners(picture.image.shape[:2])
        if np.abs(transforms.apply_coords(old) - new).max() > _ROUNDING:
            raise UserError(
                f"a view of test_time_augmentation does more than resize ({self.augmentations}): boxes could "
                "not be brought back; leave resizes only, and write mirrored=True for mirrored views"
            )
        view = torch.from_numpy(np.ascontiguousarray(picture.image.transpose(2, 0, 1)))
        return view.flip(2) if self.mirrored else view


def _corners(size: tuple[int, int]) -> np.ndarray:
    """Return the points (2, 2), as (x, y), at which an image of ``size`` begins and ends."""
    return np.array([[0, 0], [size[1], size[0]]], np.float64)
