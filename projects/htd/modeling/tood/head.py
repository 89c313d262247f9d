"""T-Head: features in which both tasks interact, what each takes from them, and aligned predictions.

Symbols: N images, C channels, H x W cells of one level, S interactive layers, K classes, P priors.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from detectron2.layers import Conv2d
from torch import Tensor, nn

from htd.layers import product_logits, repair_boxes, sample_coordinates
from htd.layers.sampling import full_precision
from htd.modeling.dense.boxes import Decoder, Priors, decoder_name
from htd.modeling.dense.head import TaskFeatures, Towers, tower_conv
from htd.modeling.dense.predictors import BoxRule, Predictors, prior_logit

# An offset (dy, dx) for each of the four sides.
OFFSETS = 8


class InteractiveTowers(Towers):
    """A stack of interactive layers, and the features that each task takes from all of them.

    Paper: TOOD: Task-aligned One-stage Object Detection, section 3.1, https://arxiv.org/abs/2108.07755

    Args:
        channels: C.
        num_layers: S.
        attention_dim: see :class:`TaskDecomposition`.
        num_groups: groups of the norms.
        num_deformable: how many of the first layers are modulated deformable convolutions.
        offset_groups: groups of channels of those with their own offsets.
    """

    def __init__(
        self,
        *,
        channels: int = 256,
        num_layers: int = 6,
        attention_dim: int = 32,
        num_groups: int = 32,
        num_deformable: int = 0,
        offset_groups: int = 4,
    ):
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"num_layers is {num_layers}; it has to be at least 1")
        if not 0 <= num_deformable <= num_layers:
            raise ValueError(f"num_deformable is {num_deformable}; it has to be from 0 to {num_layers}")
        self.channels = channels
        layer = partial(tower_conv, channels, channels, num_groups=num_groups, offset_groups=offset_groups)
        self.interactive = nn.ModuleList(layer(deformable=i < num_deformable) for i in range(num_layers))
        self.classification, self.regression = (
            TaskDecomposition(
                channels=channels, num_layers=num_layers, attention_dim=attention_dim, num_groups=num_groups
            )
            for _ in range(2)
        )

    def forward(self, x: Tensor, level: int) -> TaskFeatures:
        """See :class:`Towers`; the interactive layers are shared, all levels are treated alike."""
        layers = []
        for layer in self.interactive:
            x = layer(x)
            layers.append(x)
        pooled = torch.cat([layer.mean(dim=(2, 3), keepdim=True) for layer in layers], dim=1)
        if torch.is_autocast_enabled(x.device.type):
            # Group norm gives float32, which every convolution of the same layer would cast again.
            dtype = torch.get_autocast_dtype(x.device.type)
            layers = [layer.to(dtype) for layer in layers]
        return TaskFeatures(self.classification(layers, pooled), self.regression(layers, pooled), layers)


class TaskDecomposition(nn.Module):
    """Features of one task: interactive layers weighted for each image, then mixed by a 1x1 convolution.

    Group norm and ReLU after the mixture are those of the published implementation.

    Paper: TOOD: Task-aligned One-stage Object Detection, section 3.1, https://arxiv.org/abs/2108.07755

    Args:
        channels: C, of a layer and of the output.
        num_layers: S.
        attention_dim: channels between the two layers that give the weights.
        num_groups: groups of the norm.
    """

    def __init__(
        self, *, channels: int = 256, num_layers: int = 6, attention_dim: int = 32, num_groups: int = 32
    ):
        super().__init__()
        self.attention = nn.Sequential(
            nn.Conv2d(channels * num_layers, attention_dim, 1),
            nn.ReLU(),
            nn.Conv2d(attention_dim, num_layers, 1),
        )
        self.reduction = Conv2d(
            channels * num_layers, channels, 1, bias=False, norm=nn.GroupNorm(num_groups, channels)
        )
        for conv in (self.attention[0], self.attention[2]):
            nn.init.normal_(conv.weight, std=0.001)
            nn.init.zeros_(conv.bias)
        nn.init.normal_(self.reduction.weight, std=0.01)

    def forward(self, layers: Sequence[Tensor], pooled: Tensor) -> Tensor:
        """Return (N, C, H, W) for S layers (N, C, H, W) and their spatial means (N, S * C, 1, 1)."""
        # In at least float32: the gradient of a weight is a sum over all channels of its layer.
        with torch.autocast(pooled.device.type, enabled=False):
            weights = self.attention(full_precision(pooled)).sigmoid().flatten(1)
        # The weights scale whole layers, so they are multiplied into the small kernel, not into the features.
        weights = weights.repeat_interleave(layers[0].shape[1], dim=1)
        kernel = self.reduction.weight.flatten(1) * weights[:, None]
        return self.reduction.norm(conv1x1_of_layers(layers, kernel)).relu()


def conv1x1_of_layers(layers: Sequence[Tensor], weight: Tensor) -> Tensor:
    """Apply a 1x1 convolution to the channels of several layers without concatenating them.

    Concatenated, the layers of the finest level would be the largest tensor of the head.

    Args:
        layers: S maps (N, C, H, W).
        weight: (N, C', S * C), one convolution for each image; or (C', S * C), one for all.

    Returns:
        (N, C', H, W).
    """
    (first, *parts), (layer, *others) = weight.split(layers[0].shape[1], dim=-1), layers
    out = torch.matmul(first.to(layer.dtype), layer.flatten(2))
    for part, other in zip(parts, others, strict=True):
        # Under autocast the first product has its dtype, and an in-place product needs the same one.
        cells = other.flatten(2).to(out.dtype)
        out.baddbmm_(part.to(out.dtype).expand(len(out), -1, -1), cells)
    return out.unflatten(2, layer.shape[2:])


class AlignedPredictors(Predictors):
    """Predictors that the interactive layers correct: scores by a map, boxes by offsets.

    The class probability is the geometric mean of what the classifier and the map predict. The offsets are
    appended to the boxes, for :class:`SampledBoxDecoder`.

    Paper: TOOD: Task-aligned One-stage Object Detection, section 3.1, https://arxiv.org/abs/2108.07755

    Args:
        num_classes, channels, num_levels, box_rule: see :class:`Predictors`; there is one prior per cell.
        num_layers: S.
        hidden: channels between the two layers that predict the map, and of those that predict the offsets.
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
        nn.init.constant_(self.score_map[2].bias, prior_logit(prior_probability))

    def forward(self, features: TaskFeatures, level: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return logits (N, K, H, W), boxes and offsets (N, 4 + 8, H, W), and None."""
        logits, boxes, centerness = super().forward(features, level)
        # Kept as a logit: the root of a product has an infinite gradient as soon as the product underflows.
        aligned = product_logits(logits, self.score_map(features.shared), root=2.0)
        offsets = self.box_offsets(features.shared)
        return aligned, torch.cat([boxes, offsets], dim=1), centerness


class Corrector(nn.Sequential):
    """A 1x1 convolution of all interactive layers, a ReLU, and a 3x3 convolution in at least float32.

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
        # The gradient of an offset is as large as the step, in pixels, between boxes of neighboring cells.
        with torch.autocast(hidden.device.type, enabled=False):
            return predictor(activation(full_precision(hidden)))


class SampledBoxDecoder(Decoder):
    """Decodes boxes, then reads each side bilinearly from the place that its own offset points to.

    Outside of the map everything is zero, as published. Where sampling turns a box inside out, the box at the
    place itself is taken instead.

    Paper: TOOD: Task-aligned One-stage Object Detection, section 3.1, https://arxiv.org/abs/2108.07755

    Args:
        decoder: of the boxes before they are sampled; reads the first numbers of a prior, the last eight are
            offsets (dy, dx) of the left, top, right and bottom side, in cells.
        repair: take the box at the place itself where the sampled one is inside out; False is the form of the
            authors' own code.
    """

    def __init__(self, *, decoder: Decoder, repair: bool = True):
        self.decoder = decoder
        self.repair = repair

    def __repr__(self) -> str:
        # Saved with weights, which fit with and without the repair.
        return f"{type(self).__name__}({decoder_name(self.decoder)})"

    def reads(self, dim: int) -> bool:
        """See :class:`Decoder`."""
        return dim > OFFSETS and self.decoder.reads(dim - OFFSETS)

    def __call__(self, regression: Tensor, priors: Priors) -> Tensor:
        """Return boxes (N, P, 4) of a regression (N, P, D + 8), one prior per cell."""
        boxes = priors.split(self.decoder(regression[..., :-OFFSETS], priors), dim=1)
        offsets = priors.split(regression[..., -OFFSETS:], dim=1)
        aligned = []
        for level_boxes, level_offsets, shape in zip(boxes, offsets, priors.shapes, strict=True):
            box_map, offset_map = (
                x.transpose(1, 2).unflatten(2, shape) for x in (level_boxes, level_offsets)
            )
            sampled = sample_coordinates(box_map, offset_map)
            if self.repair:
                sampled = repair_boxes(sampled, box_map)
            aligned.append(sampled.flatten(2).transpose(1, 2))
        return torch.cat(aligned, dim=1)
