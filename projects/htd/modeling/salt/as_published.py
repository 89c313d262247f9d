"""Parts that make the published plug-ins of SALT what they are, faults included; only to be equal to them.

The repository of the authors has variants of the operator inside FCOS and RetinaNet that it neither
configures nor evaluates. The configs here have corrected forms.
"""

from __future__ import annotations

from dataclasses import replace

from detectron2.modeling.box_regression import Box2BoxTransform
from torch import Tensor

from htd.errors import UserError
from htd.modeling.dense.losses import DeltaLoss
from htd.modeling.dense.matched import Matched


class ReLUOfTwiceScaled:
    """Distances in cells to which the level's scalar is applied twice (SALT in FCOS, as published)."""

    scales = True

    def __call__(self, x: Tensor, scale: Tensor) -> Tensor:
        """Return relu(scale^2 * x) (N, 4, H, W), in cells."""
        return (scale * (scale * x)).relu()


class CoarseDeltaLoss:
    """L1 between coarse distances and the deltas of objects (SALT in RetinaNet, as published).

    The two have no unit in common, so the coarse boxes learn nothing that makes sense.

    Args:
        transform: codes boxes as deltas.
    """

    reads = "coarse"

    def __init__(self, *, transform: Box2BoxTransform):
        self.deltas = DeltaLoss(transform=transform, beta=0.0)

    def __call__(self, matched: Matched) -> Tensor:
        """Return the sum over the four numbers, (N, P).

        Raises:
            UserError: there are several priors a cell, as many deltas, and one coarse box.
        """
        if matched.priors.per_cell != 1:
            raise UserError(
                f"CoarseDeltaLoss compares one coarse box with the deltas of {matched.priors.per_cell} "
                "anchors a cell: give the anchor generator one anchor a cell, or take CoarseBoxLoss"
            )
        predictions = replace(matched.predictions, regression=matched.predictions.coarse)
        return self.deltas(replace(matched, predictions=predictions))
