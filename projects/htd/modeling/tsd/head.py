"""TSD's head: classification and regression each look where it suits them.

Symbols: R RoIs, P rows that are regressed, K foreground classes, C channels, S side of the pooled map, D
features of the offset trunk, B box coordinates (see :mod:`htd.modeling.cascade.heads`). Offsets are (x, y),
positive to the right and downwards; times the head's shift factor they are fractions of the RoI's width and
height.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from htd.layers import AlignedRegions, RoundedRegions, offset_roi_pool
from htd.modeling.cascade import (
    ClassificationOutput,
    FCStack,
    RoIContext,
    RoIs,
    SharedFCHead,
    box_dim,
)

# Pooled at test before the layers run: 13 MB of 7x7 features with 256 channels.
_ROIS_AT_ONCE = 256


@dataclass(frozen=True)
class TSDOutput(ClassificationOutput):
    """Output of TSD's classification tower; ``boxes`` are the shifted RoIs.

    Attributes:
        pooled: (R, C * S * S), the plain RoI features; None if regression does not read them.
        box_offsets: (R, 2), (x, y) as fractions of the RoIs' sizes; None if regression does not shift.
        sibling: output of the sibling head; None at test or without one.
    """

    pooled: Tensor | None
    box_offsets: Tensor | None
    sibling: ClassificationOutput | None


class TSDHead(nn.Module):
    """A head of two towers that look at displaced features, and a sibling head to be trained with.

    Paper: TSD, section 3, figure 2, https://arxiv.org/abs/2003.07540. A small network reads the plain RoI
    features and predicts an offset for the RoI as a whole and one for each of its bins; regression works on
    the RoI moved by the first and its deltas refer to that; classification works on bins moved by the others.

    Args:
        features: gives the plain RoI features (R, C, S, S), see :mod:`htd.modeling.cascade.rois`.
        classification: the tower of the classes.
        regression: the tower of the boxes.
        sibling: the head of Faster R-CNN, trained beside the towers on the plain features; None to train the
            towers alone.
        channels, resolution: C and S.
        trunk_dim: D. The trunk is built only if one of the towers shifts.
        shift_factor: what an offset of 1 stands for, as a fraction of the RoI's size.
    """

    reads_classifier = False

    def __init__(
        self,
        *,
        features: nn.Module,
        classification: ShiftedClassification,
        regression: ShiftedRegression,
        sibling: SharedFCHead | None,
        channels: int = 256,
        resolution: int = 7,
        trunk_dim: int = 256,
        shift_factor: float = 0.1,
    ):
        super().__init__()
        if trunk_dim < 1 or not math.isfinite(shift_factor):
            raise ValueError(
                f"trunk_dim is {trunk_dim} and shift_factor {shift_factor}; trunk_dim has to be at least 1, "
                "shift_factor finite"
            )
        self.features = features
        self.classification = classification
        self.regression = regression
        self.sibling = sibling
        self.shift_factor = shift_factor
        shifts = classification.shift.shifts or regression.shift.shifts
        self.trunk = hidden_layer(channels * resolution**2, trunk_dim) if shifts else None

    def classify(self, context: RoIContext, rois: RoIs) -> TSDOutput:
        """Return the logits of R RoIs, their shifted boxes and, in training, the output of the sibling."""
        x = self.features(context, rois).flatten(1)
        hidden = None if self.trunk is None else F.relu(self.trunk(x))
        point_offsets = self.classification.shift.offsets(hidden, self.shift_factor)
        box_offsets = self.regression.shift.offsets(hidden, self.shift_factor)
        features = self.classification(context, rois, x, point_offsets)
        # Only the losses read the sibling.
        sibling = (
            self.sibling.classify_features(x, rois) if self.sibling is not None and self.training else None
        )
        return TSDOutput(
            logits=self.classification.cls_score(features),
            classifier=self.classification.cls_score,
            features=features,
            boxes=rois.boxes if box_offsets is None else shift_boxes(rois.boxes, box_offsets),
            pooled=x if box_offsets is None else None,
            box_offsets=box_offsets,
            sibling=sibling,
        )

    def regress(self, context: RoIContext, rois: RoIs, output: TSDOutput, rows: Tensor) -> Tensor:
        """Return deltas (P, B), which refer to the shifted boxes, for the RoIs of ``rows`` (P,)."""
        x, offsets = (t if t is None else t[rows] for t in (output.pooled, output.box_offsets))
        return self.regression(context, rois[rows], x, offsets)


def shift_boxes(boxes: Tensor, offsets: Tensor) -> Tensor:
    """Move boxes (R, 4) by offsets (R, 2), (x, y) as fractions of their sizes. Nothing is clipped.

    Paper: TSD, section 3.2, https://arxiv.org/abs/2003.07540.
    """
    move = offsets * (boxes[:, 2:] - boxes[:, :2])
    return boxes + torch.cat([move, move], dim=1)


class ShiftedTower(nn.Module):
    """Fully connected layers on displaced RoI features, or on the plain ones.

    Paper: TSD, section 3.2, https://arxiv.org/abs/2003.07540.

    Args:
        shift: predicts the offsets, or :class:`NoShift`.
        pooler: pools by offsets, such as :class:`OffsetPooler`.
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

    def forward(self, context: RoIContext, rois: RoIs, x: Tensor | None, offsets: Tensor | None) -> Tensor:
        """Return the features (R, D') of the last layer, which the predictor reads.

        Args:
            context, rois: of the batch.
            x: (R, C * S * S), the plain RoI features, read if there are no offsets.
            offsets: (R, 2, S, S) or (R, 2), fractions of the RoIs' sizes.
        """
        if offsets is None:
            return self.fcs(x)
        # At test nothing needs the features of all RoIs at once, and small pieces of memory are used again.
        every = torch.arange(len(rois.boxes), device=rois.boxes.device)
        num_parts = 1 if torch.is_grad_enabled() else math.ceil(len(every) / _ROIS_AT_ONCE)
        parts = every.chunk(max(num_parts, 1))
        return torch.cat([self.fcs(self.pooler(context, rois[rows], offsets[rows])) for rows in parts])


class ShiftedClassification(ShiftedTower):
    """The classification tower. The predictor keeps PyTorch's own initialization, as published.

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


class ShiftedRegression(ShiftedTower):
    """The regression tower. The predictor keeps PyTorch's own initialization, as published.

    Args:
        shift: :class:`BoxShift`, or :class:`NoShift` for a tower on the plain RoI features.
        pooler, channels, resolution, fc_dims: as in :class:`ShiftedTower`.
        num_classes: K.
        class_agnostic: one box per RoI (B = 4) instead of one per class.
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
        """Return deltas (P, B) of P RoIs."""
        return self.bbox_pred(super().forward(context, rois, x, offsets))


def kaiming_weight(weight: Tensor) -> Tensor:
    """Draw a weight (D', D) in place from N(0, 1 / D), as published for all hidden layers."""
    return nn.init.kaiming_normal_(weight, nonlinearity="linear")


def hidden_layer(in_features: int, out_features: int) -> nn.Linear:
    """Return a layer drawn by :func:`kaiming_weight`, its bias zero."""
    layer = nn.Linear(in_features, out_features)
    kaiming_weight(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class PointShift(nn.Sequential):
    """One offset for each bin: where classification looks.

    Paper: TSD, section 3.2 (delta C), https://arxiv.org/abs/2003.07540.

    Args:
        in_features: D.
        resolution: S.

    Attributes:
        shifts: whether there are offsets.
    """

    shifts = True

    def __init__(self, *, in_features: int = 256, resolution: int = 7):
        super().__init__(
            hidden_layer(in_features, in_features),
            nn.ReLU(),
            hidden_layer(in_features, 2 * resolution**2),
        )
        self.resolution = resolution

    def offsets(self, hidden: Tensor, factor: float) -> Tensor:
        """Map hidden (R, D) to offsets (R, 2, S, S) times ``factor``."""
        return self(hidden).float().unflatten(1, (2, self.resolution, self.resolution)) * factor


class BoxShift(nn.Sequential):
    """One offset for the whole box: where regression looks.

    Paper: TSD, section 3.2 (delta R), https://arxiv.org/abs/2003.07540.

    Args:
        in_features: D.

    Attributes:
        shifts: whether there are offsets.
    """

    shifts = True

    def __init__(self, *, in_features: int = 256):
        super().__init__(
            hidden_layer(in_features, in_features),
            nn.ReLU(),
            hidden_layer(in_features, 2),
        )

    def offsets(self, hidden: Tensor, factor: float) -> Tensor:
        """Map hidden (R, D) to offsets (R, 2) times ``factor``."""
        return self(hidden).float() * factor


class NoShift(nn.Module):
    """A task that looks at the RoI as it is: its tower works on the plain RoI features.

    Attributes:
        shifts: whether there are offsets.
    """

    shifts = False

    def offsets(self, hidden: Tensor | None, factor: float) -> None:
        """Return None, for there are no offsets."""


class OffsetPooler(nn.Module):
    """Pools each RoI, displaced, on the level of the RoI that is not.

    Paper: TSD, section 3.2, https://arxiv.org/abs/2003.07540.

    Args:
        regions: :class:`htd.layers.RoundedRegions` (published) or :class:`htd.layers.AlignedRegions`.
        output_size: S.
        samples: samples per bin and axis.
    """

    def __init__(self, *, regions: RoundedRegions | AlignedRegions, output_size: int = 7, samples: int = 4):
        super().__init__()
        if samples < 1:
            raise ValueError(f"samples is {samples}; it has to be at least 1")
        self.settings = {"regions": regions, "output_size": output_size, "samples": samples}

    def forward(self, context: RoIContext, rois: RoIs, offsets: Tensor) -> Tensor:
        """Return (R, C, S, S) for offsets (R, 2) or (R, 2, S, S), (x, y) as fractions of the RoI's size."""
        return offset_roi_pool(
            context.table, rois.boxes, rois.image_index, rois.levels, offsets, **self.settings
        )


class SemanticOffsetPooler(OffsetPooler):
    """The same on the map of a semantic branch, whatever the RoI's size."""

    def forward(self, context: RoIContext, rois: RoIs, offsets: Tensor) -> Tensor:
        """Return (R, C, S, S); see :class:`OffsetPooler`."""
        table, level = context.semantic_features, torch.zeros_like(rois.levels)
        return offset_roi_pool(table, rois.boxes, rois.image_index, level, offsets, **self.settings)
