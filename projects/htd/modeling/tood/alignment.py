"""T-Head, second half: scores and boxes that are aligned with each other.

Symbols: N images, C channels, H x W cells of a level, S interactive layers, K classes, P priors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from htd.layers import product_logits, repair_boxes, sample_coordinates
from htd.layers.sampling import full_precision
from htd.modeling.dense.decoders import Decoder, decoder_name
from htd.modeling.dense.head import Predictors, logit
from htd.modeling.dense.priors import Priors
from htd.modeling.dense.regression import BoxRule
from htd.modeling.dense.towers import TaskFeatures
from htd.modeling.tood.task_decomposition import conv1x1_of_layers

# Two of each side.
OFFSETS = 8


class AlignedPredictors(Predictors):
    """Predictors that the interactive layers correct: scores by a map, boxes by offsets.

    Paper: TOOD, section 3.1 (prediction alignment). The class probability is the geometric mean of what the
    classifier and the map say. It is carried as its logit, computed from logarithms: its gradients have a
    closed form and are bounded, where those of the root of a product are infinite as soon as it underflows.
    What :class:`SampledBoxDecoder` needs is appended to the boxes.

    Args:
        num_classes, channels, num_levels, box_rule: see :class:`Predictors`; there is one prior a cell.
        num_layers: S.
        hidden: width between the two layers that give the map, and of those that give the offsets.
        prior_probability: that the classifier and the map start with.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        channels: int = 256,
        num_levels: int = 5,
        box_rule: BoxRule,
        num_layers: int = 6,
        hidden: int = 64,
        prior_probability: float = 0.01,
    ):
        super().__init__(
            num_classes=num_classes,
            channels=channels,
            num_levels=num_levels,
            box_rule=box_rule,
            prior_probability=prior_probability,
        )
        self.score_map = Corrector(num_layers * channels, hidden, 1, std=0.01)
        self.box_offsets = Corrector(num_layers * channels, hidden, OFFSETS, std=0.001)
        self.regression_dim += OFFSETS
        nn.init.constant_(self.score_map[2].bias, logit(prior_probability))

    def forward(self, features: TaskFeatures, level: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return logits (N, K, H, W), boxes and offsets (N, 4 + 8, H, W), and no centerness."""
        logits, boxes, centerness = super().forward(features, level)
        aligned = product_logits(logits, self.score_map(features.shared), root=2.0)
        offsets = self.box_offsets(features.shared)
        return aligned, torch.cat([boxes, offsets], dim=1), centerness


class SampledBoxDecoder(Decoder):
    """Decodes boxes, then takes each side from where an offset points to.

    Paper: TOOD, section 3.1: each of the four coordinates is read, bilinearly, from its own map, moved by its
    own offset; beyond the map all is zero, as published. Where this turns a box inside out, the box at the
    place itself is taken instead.

    Args:
        decoder: of the boxes before they are sampled; reads the first numbers of a prior, the last eight are
            offsets (dy, dx) of the left, upper, right, and lower side, in cells.
        repair: take the box at the place itself where the sampled one is inside out; False is the
            authors' own form.
    """

    def __init__(self, *, decoder: Decoder, repair: bool = True):
        self.decoder = decoder
        self.repair = repair

    @property
    def wanted(self) -> str:
        """See :class:`Decoder`."""
        return f"{getattr(self.decoder, 'wanted', 'some')} and {OFFSETS}"

    def reads(self, dim: int) -> bool:
        """See :class:`Decoder`; a decoder within that is a mere function reads anything."""
        return dim > OFFSETS and (not isinstance(self.decoder, Decoder) or self.decoder.reads(dim - OFFSETS))

    def __repr__(self) -> str:
        """Return what checkpoints say of it; whether boxes are repaired is a choice at any time."""
        return f"{type(self).__name__}({decoder_name(self.decoder)})"

    def __call__(self, regression: Tensor, priors: Priors) -> Tensor:
        """Return boxes (N, P, 4) of a regression (N, P, D + 8), one prior a cell."""
        boxes = self.decoder(regression[..., :-OFFSETS], priors)
        offsets = priors.split(regression[..., -OFFSETS:], dim=1)
        levels = zip(priors.split(boxes, dim=1), offsets, priors.shapes, strict=True)
        return torch.cat([self._aligned(*level) for level in levels], dim=1)

    def _aligned(self, boxes: Tensor, offsets: Tensor, shape: tuple[int, int]) -> Tensor:
        """Return the boxes (N, H * W, 4) of one level."""
        boxes, offsets = (x.transpose(1, 2).unflatten(2, shape) for x in (boxes, offsets))
        sampled = sample_coordinates(boxes, offsets)
        if self.repair:
            sampled = repair_boxes(sampled, boxes)
        return sampled.flatten(2).transpose(1, 2)


class Corrector(nn.Sequential):
    """A 1x1 convolution of all interactive layers, a ReLU, and a 3x3 convolution in at least float32.

    The gradient of an offset is as large as the step, in pixels, between boxes of neighbouring cells.

    Args:
        in_channels: S * C.
        hidden: channels between the convolutions.
        out_channels: C' of what is predicted.
        std: of the weights at the start.
    """

    def __init__(self, in_channels: int, hidden: int, out_channels: int, *, std: float):
        super().__init__(
            nn.Conv2d(in_channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, out_channels, 3, padding=1)
        )
        for conv in (self[0], self[2]):
            nn.init.normal_(conv.weight, std=std)
            nn.init.zeros_(conv.bias)

    def forward(self, layers: Sequence[Tensor]) -> Tensor:
        """Return (N, C', H, W) in at least float32 for S layers (N, C, H, W)."""
        joint, activation, predictor = self
        hidden = conv1x1_of_layers(layers, joint.weight.flatten(1)) + joint.bias[:, None, None]
        with torch.autocast(hidden.device.type, enabled=False):
            return predictor(activation(full_precision(hidden)))
