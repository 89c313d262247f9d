"""Mask information flow: each mask head goes on from the features of the one before.

Symbols: P RoIs, C channels, S side of the pooled map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from htd.modeling.cascade import IndependentHeads, init_conv


class MaskInformationFlow(IndependentHeads):
    """Each mask head also sees the features of the one before, computed on the same RoIs.

    Paper: Hybrid Task Cascade for Instance Segmentation, section 3.1 (mask information flow),
    https://arxiv.org/abs/1901.07518; as its authors' implementation has it, all heads before are run again on
    the RoI features of the current boxes, and gradients flow through all of them.

    Args:
        num_heads: number of mask heads.
        channels: C.
    """

    def __init__(self, *, num_heads: int, channels: int = 256):
        super().__init__()
        self.transforms = nn.ModuleList(
            init_conv(nn.Conv2d(channels, channels, 1)) for _ in range(num_heads - 1)
        )

    def check(self, num_heads: int) -> None:
        """Refuse another number of heads than the one it was built for.

        Raises:
            ValueError: naming both.
        """
        if num_heads != len(self.transforms) + 1:
            raise ValueError(f"num_heads is {len(self.transforms) + 1}, but there are {num_heads} mask heads")

    def last(self, heads: Sequence[Callable], x: Tensor) -> Tensor:
        """Return the features of the last of the heads for RoI features x; both (P, C, S, S)."""
        return self.every(heads, x)[-1]

    def every(self, heads: Sequence[Callable], x: Tensor) -> list[Tensor]:
        """Return the features of each of the heads for RoI features x, all (P, C, S, S)."""
        features = [heads[0](x)]
        for transform, head in zip(self.transforms, heads[1:], strict=False):
            features.append(head(x + F.relu(transform(features[-1]))))
        return features
