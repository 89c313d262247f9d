"""The sibling head that TSD is trained beside, and to beat.

Symbols: R RoIs, P rows that are regressed, K foreground classes, C channels, S side of the pooled map, B box
coordinates (see :mod:`htd.modeling.cascade.heads`).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from htd.modeling.cascade import Classified, FCStack, RoIs, box_predictor, init_predictor
from htd.modeling.tsd.shift import kaiming_weight


class SiblingTower(nn.Module):
    """Classification and regression from the plain RoI features, in training only.

    Paper: TSD, section 3.1, "sibling head"; the head of Faster R-CNN with FPN.

    Args:
        num_classes: K.
        channels, resolution, fc_dims: C, S and the widths of the layers.
        class_agnostic: one box a RoI (B = 4) instead of one a class.
        background_box: the background is a class with a box, too (B = 4K + 4).
    """

    def __init__(
        self,
        *,
        num_classes: int,
        channels: int = 256,
        resolution: int = 7,
        fc_dims: Sequence[int] = (1024, 1024),
        class_agnostic: bool = False,
        background_box: bool = False,
    ):
        super().__init__()
        self.fcs = FCStack(channels=channels, resolution=resolution, dims=fc_dims, init=kaiming_weight)
        self.cls_score = init_predictor(nn.Linear(self.fcs.out_features, num_classes + 1), std=0.01)
        self.bbox_pred = box_predictor(self.fcs.out_features, num_classes, class_agnostic, background_box)

    def classify(self, x: Tensor, rois: RoIs) -> Classified | None:
        """Return the logits for RoI features x (R, C * S * S); None at test, where nobody asks for them."""
        if not self.training:
            return None
        hidden = self.fcs(x)
        return Classified(self.cls_score(hidden), self.cls_score, hidden, rois.boxes)

    def regress(self, classified: Classified, rows: Tensor) -> Tensor:
        """Return deltas (P, B), which refer to the RoIs."""
        return self.bbox_pred(classified.features[rows])


class NoSibling(nn.Module):
    """TSD's towers trained alone."""

    def classify(self, x: Tensor, rois: RoIs) -> None:
        """Return None, for there is no sibling."""
