"""Inputs that the benchmarks of single operators share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

IMAGE, STRIDES = (800, 1333), (4, 8, 16, 32)


def random_regions(count: int, seed: int = 0, largest: float = 1800.0) -> tuple[Tensor, Tensor]:
    """Return boxes (count, 4) of 12 to ``largest`` pixels in an image, and their levels by the usual rule."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.rand(count, 4, generator=generator)
    side = torch.exp(math.log(12) + spread[:, 0] * math.log(largest / 12))
    ratio = torch.exp((spread[:, 1] - 0.5) * 1.4)
    width, height = (side * ratio).clamp(max=IMAGE[1]), (side / ratio).clamp(max=IMAGE[0])
    x, y = spread[:, 2] * (IMAGE[1] - width), spread[:, 3] * (IMAGE[0] - height)
    levels = torch.floor(torch.log2((width * height).sqrt() / 56 + 1e-6)).clamp(0, 3).long()
    return torch.stack([x, y, x + width, y + height], dim=1), levels
