"""From what a dense head says about each prior to boxes.

Symbols: N images, P priors, D numbers of a prior. Boxes are XYXY in pixels of the resized input, not clipped;
a cell is the stride of a prior's level.
"""

from __future__ import annotations

import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from torch import Tensor

from htd.layers import expected_value
from htd.modeling.dense.priors import Priors


class Decoder:
    """Makes boxes of what is predicted for them; called as below, stateless.

    Attributes:
        wanted: the D that it reads, in words.
    """

    wanted: str

    def reads(self, dim: int) -> bool:
        """Whether it can decode D = ``dim`` numbers of a prior."""
        raise NotImplementedError

    def __call__(self, regression: Tensor, priors: Priors) -> Tensor:
        """Return boxes (N, P, 4) for a regression (N, P, D) in at least float32."""
        raise NotImplementedError


def decoder_name(decoder: Decoder) -> str:
    """Return what a decoder says of itself, or the name of its class, to compare it with another one."""
    speaks = type(decoder).__repr__ is not object.__repr__
    return repr(decoder) if speaks else type(decoder).__name__


class DeltaDecoder(Decoder):
    """Boxes as deltas from anchors; D = 4.

    Paper: Focal Loss for Dense Object Detection, section 4 (from R-CNN, appendix C).

    Args:
        transform: codes boxes as deltas.
    """

    wanted = "4"

    def __init__(self, *, transform: Box2BoxTransform):
        self.transform = transform

    def reads(self, dim: int) -> bool:
        """See :class:`Decoder`."""
        return dim == 4

    def __call__(self, regression: Tensor, priors: Priors) -> Tensor:
        """Return the boxes; see :class:`Decoder`."""
        sources = priors.boxes.to(regression.dtype).expand(len(regression), -1, -1)
        boxes = self.transform.apply_deltas(regression.flatten(0, 1), sources.flatten(0, 1))
        return boxes.view(*regression.shape[:2], 4)


class DistanceDecoder(Decoder):
    """Boxes as distances of their sides from points: left, top, right, bottom; D = 4.

    Paper: FCOS, section 3.1.

    Args:
        in_cells: distances are in cells; else in pixels.
    """

    wanted = "4"

    def __init__(self, *, in_cells: bool):
        self.in_cells = in_cells

    def __repr__(self) -> str:
        """Return what checkpoints say of it: shapes do not tell pixels from cells."""
        return f"{type(self).__name__}(in_cells={self.in_cells})"

    def reads(self, dim: int) -> bool:
        """See :class:`Decoder`."""
        return dim == 4

    def __call__(self, regression: Tensor, priors: Priors) -> Tensor:
        """Return the boxes; see :class:`Decoder`."""
        if self.in_cells:
            regression = regression * priors.stride_of_each[:, None]
        centers = priors.centers
        return torch.cat([centers - regression[..., :2], centers + regression[..., 2:]], dim=-1)


class DistributionDecoder(Decoder):
    """Boxes as distributions over the distances of their sides, in cells; D = 4 times the bins.

    Paper: Generalized Focal Loss, equations 3 to 5. A distance is the expectation over 0, 1, ..., bins - 1.
    """

    wanted = "4 times at least 2 bins"

    def __init__(self):
        self.distances = DistanceDecoder(in_cells=True)

    def reads(self, dim: int) -> bool:
        """See :class:`Decoder`."""
        return dim >= 8 and dim % 4 == 0

    def __call__(self, regression: Tensor, priors: Priors) -> Tensor:
        """Return the boxes; see :class:`Decoder`."""
        return self.distances(expected_value(regression.unflatten(-1, (4, -1))), priors)
