"""Feature pyramid with the published initialization."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import FPN, Backbone
from torch import nn

from htd.layers.norms import norm_layer


@BACKBONE_REGISTRY.register()
class XavierFPN(FPN):
    """Detectron2's ``FPN`` with Xavier-uniform weights, as in the published detectors.

    Paper: Feature Pyramid Networks for Object Detection, section 3, https://arxiv.org/abs/1612.03144.
    Detectron2's Caffe2-style filler reads fan-in only: for a lateral convolution of 2048 to 256 channels its
    weights are 0.75 times as large, for one of 256 to 256 just as large.

    Args:
        bottom_up: network that gives ``in_features``.
        in_features: its outputs to build on, finest first; their strides double from one to the next.
        out_channels: channels of every level.
        norm: "" (then the convolutions have a bias) or a name that ``norm_layer`` knows.
        top_block: makes the levels above the last, such as ``LastLevelMaxPool`` or ``ExtraLevels``; None for
            none.

    Raises:
        ValueError: nobody knows the norm, or ``top_block`` does not fit the map that it is made from.
    """

    def __init__(
        self,
        bottom_up: Backbone,
        in_features: Sequence[str],
        out_channels: int,
        norm: str = "",
        top_block: nn.Module | None = None,
    ):
        features = list(in_features)
        super().__init__(bottom_up, features, out_channels, norm=norm_layer(norm), top_block=top_block)
        for conv in (*self.lateral_convs, *self.output_convs):
            nn.init.xavier_uniform_(conv.weight)
        if top_block is not None:
            own = list(self.output_shape().items())[: len(features)]
            _check_top_block(top_block, {**bottom_up.output_shape(), **dict(own)})


def _check_top_block(top_block: nn.Module, shapes: Mapping[str, ShapeSpec]) -> None:
    name = top_block.in_feature
    if name not in shapes:
        raise ValueError(f"top_block.in_feature names {name}; the maps are {', '.join(shapes)}")
    found, wanted = shapes[name].channels, getattr(top_block, "in_channels", shapes[name].channels)
    if found != wanted:
        raise ValueError(f"{name} has {found} channels, top_block.in_channels is {wanted}; set it to {found}")
