"""Anchors with whole-numbered corners."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.modeling import ANCHOR_GENERATOR_REGISTRY
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator


@ANCHOR_GENERATOR_REGISTRY.register()
class RoundedAnchorGenerator(DefaultAnchorGenerator):
    """Detectron2's generator with the base anchors of the older published detectors.

    Source: Faster R-CNN's released code. Anchors name their first and last pixels, which are rounded to
    whole numbers, and have their centre at (stride - 1) / 2, the middle of the pixels of a cell. They are
    kept as the areas that these pixels cover, see :mod:`htd.layers.boxes`.

    Args:
        sizes: of each level, the square roots of the anchors' areas in pixels.
        aspect_ratios: height over width; the same for all levels.
        strides: pixels of the resized input a cell of each level.
    """

    def __init__(
        self, *, sizes: Sequence[Sequence[float]], aspect_ratios: Sequence[float], strides: Sequence[int]
    ):
        super().__init__(sizes=sizes, aspect_ratios=aspect_ratios, strides=strides, offset=0.0)
        levels = zip(self.cell_anchors, self.strides, strict=True)
        for base, stride in levels:
            base.copy_(_rounded(base, stride))


def _rounded(base: torch.Tensor, stride: int) -> torch.Tensor:
    """Return anchors of the sizes of ``base`` (A, 4), which is centred at 0, with their corners rounded."""
    middle, size = (stride - 1) / 2, base[:, 2:] - base[:, :2]
    first, last = middle - (size - 1) / 2, middle + (size - 1) / 2
    return torch.cat([first.round(), last.round() + 1], dim=1)
