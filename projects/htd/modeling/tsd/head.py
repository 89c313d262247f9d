"""TSD's head: classification and regression each look where it suits them.

Symbols: R RoIs, P rows that are regressed, K foreground classes, C channels, S side of the pooled map, D
features of the offset trunk, B box coordinates (see :mod:`htd.modeling.cascade.heads`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from htd.errors import UserError
from htd.modeling.cascade import Classified, FCStack, RoIContext, RoIs, box_dim, flat_features, row_chunks
from htd.modeling.tsd.shift import BoxShift, NoShift, PointShift, hidden_layer, kaiming_weight
from htd.modeling.tsd.sibling import NoSibling, SiblingTower

# Pooled at test before the layers run: 13 MB of 7x7 features with 256 channels.
_ROIS_AT_ONCE = 256


@dataclass(frozen=True)
class TSDClassified(Classified):
    """What TSD's head knows after classification; ``boxes`` are the shifted RoIs.

    Attributes:
        pooled: (R, C * S * S), the plain RoI features; None if regression does not read them.
        box_offsets: (R, 2), (x, y) as fractions of the RoIs' sizes; None if regression does not shift.
        sibling: what the sibling head says; None at test or without one.
    """

    pooled: Tensor | None
    box_offsets: Tensor | None
    sibling: Classified | None


class ShiftedTower(nn.Module):
    """Fully connected layers on displaced RoI features (TSD, section 3.2), or on the plain ones.

    Args:
        shift: predicts the offsets, or :class:`NoShift`.
        pooler: pools by offsets, see :mod:`htd.modeling.tsd.pooling`.
        channels, resolution, fc_dims: C, S and the widths of the layers.
    """

    def __init__(
        self,
        *,
        shift: PointShift | BoxShift | NoShift,
        pooler: nn.Module,
        channels: int,
        resolution: int,
        fc_dims: Sequence[int],
    ):
        super().__init__()
        self.shift = shift
        self.pooler = pooler
        self.fcs = FCStack(channels=channels, resolution=resolution, dims=fc_dims, init=kaiming_weight)

    def hidden(self, context: RoIContext, rois: RoIs, x: Tensor | None, offsets: Tensor | None) -> Tensor:
        """Return the features (R, D') of the last layer.

        Args:
            context, rois: of the batch.
            x: (R, C * S * S), the plain RoI features, read if there are no offsets.
            offsets: (R, 2, S, S) or (R, 2), fractions of the RoIs' sizes.
        """
        if offsets is None:
            return self.fcs(x)
        # At test nothing needs the features of all RoIs at once, and small pieces of memory are used again.
        at_once = len(rois) if torch.is_grad_enabled() else _ROIS_AT_ONCE
        chunks = row_chunks(len(rois), max(at_once, 1))
        parts = [self.fcs(self.pooler(context, rois[rows], offsets[rows])) for rows in chunks]
        return torch.cat(parts)


class ShiftedClassification(ShiftedTower):
    """The classification tower.

    Paper: TSD, section 3.2. The predictor keeps PyTorch's own initialisation, as published.

    Args:
        shift: :class:`PointShift`, or :class:`NoShift` for a tower on the plain RoI features.
        pooler, channels, resolution, fc_dims: as in :class:`ShiftedTower`.
        num_classes: K.
    """

    def __init__(
        self,
        *,
        shift: PointShift | NoShift,
        pooler: nn.Module,
        num_classes: int,
        channels: int = 256,
        resolution: int = 7,
        fc_dims: Sequence[int] = (1024, 1024),
    ):
        super().__init__(
            shift=shift, pooler=pooler, channels=channels, resolution=resolution, fc_dims=fc_dims
        )
        self.cls_score = nn.Linear(self.fcs.out_features, num_classes + 1)

    def forward(self, context: RoIContext, rois: RoIs, x: Tensor, offsets: Tensor | None) -> Tensor:
        """Return the input (R, D') of ``cls_score``; see :meth:`ShiftedTower.hidden`."""
        return self.hidden(context, rois, x, offsets)


class ShiftedRegression(ShiftedTower):
    """The regression tower.

    Paper: TSD, section 3.2. The predictor keeps PyTorch's own initialisation, as published.

    Args:
        shift: :class:`BoxShift`, or :class:`NoShift` for a tower on the plain RoI features.
        pooler, channels, resolution, fc_dims: as in :class:`ShiftedTower`.
        num_classes: K.
        class_agnostic: one box a RoI (B = 4) instead of one a class.
        background_box: the background is a class with a box, too (B = 4K + 4).
    """

    def __init__(
        self,
        *,
        shift: BoxShift | NoShift,
        pooler: nn.Module,
        num_classes: int,
        channels: int = 256,
        resolution: int = 7,
        fc_dims: Sequence[int] = (1024, 1024),
        class_agnostic: bool = False,
        background_box: bool = False,
    ):
        super().__init__(
            shift=shift, pooler=pooler, channels=channels, resolution=resolution, fc_dims=fc_dims
        )
        size = box_dim(num_classes, class_agnostic, background_box)
        self.bbox_pred = nn.Linear(self.fcs.out_features, size)

    def forward(self, context: RoIContext, rois: RoIs, x: Tensor | None, offsets: Tensor | None) -> Tensor:
        """Return deltas (P, B) of P RoIs; see :meth:`ShiftedTower.hidden`."""
        return self.bbox_pred(self.hidden(context, rois, x, offsets))


class TSDHead(nn.Module):
    """A head of two towers that look at displaced features, and a sibling head to be trained with.

    Paper: TSD, section 3, figure 2. A small network reads the plain RoI features and predicts an offset
    for the RoI as a whole and one for each of its bins; regression works on the RoI moved by the first and
    its deltas refer to that; classification works on bins moved by the others.

    Args:
        features: gives the plain RoI features (R, C, S, S), see :mod:`htd.modeling.cascade.pooling`.
        classification: the tower of the classes.
        regression: the tower of the boxes.
        sibling: :class:`SiblingTower` or :class:`NoSibling`.
        channels, resolution: C and S.
        trunk_dim: D. The trunk is built only if one of the towers shifts.
        shift_factor: what an offset of 1 stands for, as a fraction of the RoI's size.

    Raises:
        UserError: the trunk would have no features, or the shift factor is no number.
    """

    has_own_losses = True

    def __init__(
        self,
        *,
        features: nn.Module,
        classification: ShiftedClassification,
        regression: ShiftedRegression,
        sibling: SiblingTower | NoSibling,
        channels: int = 256,
        resolution: int = 7,
        trunk_dim: int = 256,
        shift_factor: float = 0.1,
    ):
        super().__init__()
        if trunk_dim < 1 or not math.isfinite(shift_factor):
            raise UserError(
                f"a TSDHead has trunk_dim={trunk_dim} and shift_factor={shift_factor}; give a whole number "
                "from 1 on and a finite number"
            )
        self.features = features
        self.classification = classification
        self.regression = regression
        self.sibling = sibling
        self.shift_factor = shift_factor
        self.size = channels * resolution**2
        shifts = classification.shift.shifts or regression.shift.shifts
        self.trunk = hidden_layer(self.size, trunk_dim) if shifts else None

    def classify(self, context: RoIContext, rois: RoIs, previous: Classified | None) -> TSDClassified:
        """Return the logits of R RoIs, their shifted boxes and, in training, what the sibling says.

        ``previous`` is not read.
        """
        x = flat_features(self.features(context, rois), self.size)
        hidden = None if self.trunk is None else F.relu(self.trunk(x))
        tower = self.classification(context, rois, x, self._offsets(self.classification, hidden))
        box_offsets = self._offsets(self.regression, hidden)
        return TSDClassified(
            logits=self.classification.cls_score(tower),
            classifier=self.classification.cls_score,
            features=tower,
            boxes=rois.boxes if box_offsets is None else shift_boxes(rois.boxes, box_offsets),
            pooled=x if box_offsets is None else None,
            box_offsets=box_offsets,
            sibling=self.sibling.classify(x, rois),
        )

    def regress(self, context: RoIContext, rois: RoIs, classified: TSDClassified, rows: Tensor) -> Tensor:
        """Return deltas (P, B), which refer to the shifted boxes, for the RoIs of ``rows`` (P,)."""
        x, offsets = (t if t is None else t[rows] for t in (classified.pooled, classified.box_offsets))
        return self.regression(context, rois[rows], x, offsets)

    def _offsets(self, tower: nn.Module, hidden: Tensor | None) -> Tensor | None:
        offsets = tower.shift.offsets(hidden)
        return None if offsets is None else offsets * self.shift_factor


def shift_boxes(boxes: Tensor, offsets: Tensor) -> Tensor:
    """Move boxes (R, 4) by offsets (R, 2), (x, y) as fractions of their sizes. Nothing is clipped.

    Paper: TSD, section 3.2.
    """
    move = offsets * (boxes[:, 2:] - boxes[:, :2])
    return boxes + torch.cat([move, move], dim=1)
