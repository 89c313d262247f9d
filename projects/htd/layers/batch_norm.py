"""Batch normalisation with fixed statistics and a trained affine part, group normalisation, norms by name."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from detectron2.layers import get_norm
from torch import Tensor, nn

from htd.errors import UserError


class FixedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that always uses its running statistics and never changes them.

    The published detectors normalise so while ``weight`` and ``bias`` are trained like any other
    parameter. Detectron2's ``FrozenBatchNorm2d`` gives the same output but trains neither. The
    state dict is that of ``nn.BatchNorm2d``, ``num_batches_tracked`` included, so that published
    checkpoints map one to one. ``train()`` only sets the flag: the forward pass does not read it.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (N, C, H, W)."""
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )


class GroupNormOf:
    """Makes group norms; in the place of the name "GN", which is 32 groups, where channels are few.

    Args:
        num_groups: has to divide the channels.
    """

    def __init__(self, *, num_groups: int):
        self.num_groups = num_groups

    def __call__(self, channels: int) -> nn.GroupNorm:
        """Return a norm of so many channels.

        Raises:
            UserError: the groups are no whole number that divides them.
        """
        groups = self.num_groups
        if not isinstance(groups, int) or groups < 1 or channels % groups:
            raise UserError(
                f"num_groups={groups} does not divide the {channels} channels: give a whole number that does"
            )
        return nn.GroupNorm(self.num_groups, channels)


def norm_layer(norm: str | Callable[[int], nn.Module]):
    """Return what Detectron2's blocks take as ``norm``, knowing one name more than they do.

    Args:
        norm: "FixedBN" (:class:`FixedBatchNorm2d`), "" (no norm) or a name that Detectron2's
            ``get_norm`` knows: "BN", "SyncBN", "FrozenBN", "GN". What is no name, such as a
            :class:`GroupNormOf`, is returned.

    Raises:
        UserError: nobody knows the name.
    """
    if not isinstance(norm, str):
        return norm
    if norm == "FixedBN":
        return FixedBatchNorm2d
    try:
        get_norm(norm, 32)
    except KeyError:
        raise UserError(
            f"unknown norm {norm!r}; use 'FixedBN', 'BN', 'SyncBN', 'FrozenBN', 'GN' or '' for none"
        ) from None
    return norm
