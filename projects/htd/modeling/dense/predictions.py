"""What a dense head predicts for a batch.

Symbols: N images, L levels, A anchors a cell, P priors of all levels, K classes, D numbers that a box is
decoded from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from htd.layers.sampling import full_precision


@dataclass(frozen=True)
class DensePredictions:
    """Predictions at all priors, in the order of :class:`htd.modeling.dense.priors.Priors`; at least float32.

    Attributes:
        logits: (N, P, K); their sigmoid is the probability of a class.
        regression: (N, P, D), what the model's decoder turns into boxes.
        centerness: (N, P) logits, or None where a head has no such branch.
        coarse: (N, P / A, 4), a row for each cell: distances of the sides of a first box from the cell's
            point, left, top, right, bottom, in cells; None where towers predict none.
    """

    logits: Tensor
    regression: Tensor
    centerness: Tensor | None = None
    coarse: Tensor | None = None


def flattened(maps: Sequence[Tensor], per_cell: int) -> Tensor:
    """Turn L maps (N, A * D, H_l, W_l) into rows (N, P, D) in at least float32."""
    rows = [full_precision(x).unflatten(1, (per_cell, -1)).permute(0, 3, 4, 1, 2).flatten(1, 3) for x in maps]
    return torch.cat(rows, dim=1)
