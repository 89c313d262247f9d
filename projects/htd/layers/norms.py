"""Batch normalization with fixed statistics, group normalization, and norms by name."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from detectron2.layers import get_norm
from torch import Tensor, nn


class FixedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that always uses its running statistics and never changes them.

    The published detectors normalize so while ``weight`` and ``bias`` are trained like any other parameter.
    Detectron2's ``FrozenBatchNorm2d`` gives the same output but trains neither. The state dict is that of
    ``nn.BatchNorm2d``, ``num_batches_tracked`` included, so that published checkpoints map one to one.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x (N, C, H, W), whether in training or not."""
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )


class GroupNormOf:
    """Makes group norms of a given number of groups; the name "GN" stands for 32 groups.

    Paper: Group Normalization, section 3, https://arxiv.org/abs/1803.08494.

    Args:
        num_groups: has to divide the channels.
    """

    def __init__(self, *, num_groups: int):
        self.num_groups = num_groups

    def __call__(self, channels: int) -> nn.GroupNorm:
        """Return a norm for ``channels`` channels."""
        if not isinstance(self.num_groups, int) or self.num_groups < 1 or channels % self.num_groups:
            raise ValueError(f"num_groups is {self.num_groups}; it has to divide {channels} channels")
        return nn.GroupNorm(self.num_groups, channels)


def norm_layer(norm: str | Callable[[int], nn.Module]):
    """Return what Detectron2's blocks take as ``norm``, knowing one name more than they do.

    Args:
        norm: "FixedBN" (:class:`FixedBatchNorm2d`), "" (no norm), a name that Detectron2's ``get_norm`` knows
            ("BN", "SyncBN", "FrozenBN", "GN"), or a function of the channels such as a :class:`GroupNormOf`.
    """
    if not isinstance(norm, str):
        return norm
    if norm == "FixedBN":
        return FixedBatchNorm2d
    try:
        get_norm(norm, 32)
    except KeyError:
        known = "FixedBN, BN, SyncBN, FrozenBN, GN, or '' for none"
        raise ValueError(f"norm is {norm!r}; it has to be one of {known}") from None
    return norm
