"""Feature pyramid with the published initialisation."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import FPN, Backbone
from torch import nn


@BACKBONE_REGISTRY.register()
class XavierFPN(FPN):
    """Detectron2's ``FPN`` with Xavier-uniform weights, as in the published detectors.

    Paper: Feature Pyramid Networks for Object Detection, section 3. Detectron2's Caffe2-style
    filler reads fan-in only: for a lateral convolution of 2048 to 256 channels its weights are
    0.75 times as large, for one of 256 to 256 just as large.

    Args:
        bottom_up: network that gives ``in_features``.
        in_features: its outputs to build on, finest first; their strides double from one to the next.
        out_channels: channels of every level.
        norm: "" (then the convolutions have a bias) or a name of Detectron2's ``get_norm``.
        top_block: makes the levels above the last, such as ``LastLevelMaxPool``; None for none.
    """

    def __init__(
        self,
        bottom_up: Backbone,
        in_features: Sequence[str],
        out_channels: int,
        norm: str = "",
        top_block: nn.Module | None = None,
    ):
        super().__init__(bottom_up, list(in_features), out_channels, norm=norm, top_block=top_block)
        for conv in (*self.lateral_convs, *self.output_convs):
            nn.init.xavier_uniform_(conv.weight)
