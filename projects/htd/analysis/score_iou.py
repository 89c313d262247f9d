"""How well the scores of detections tell the IoUs of their boxes."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np


class Correlation(NamedTuple):
    """Correlation of score and IoU over detections.

    Attributes:
        pearson: that of the values, NaN if it is not defined.
        spearman: that of the ranks, NaN if it is not defined.
        n: detections that it is of.
    """

    pearson: float
    spearman: float
    n: int


def correlate(scores: np.ndarray, ious: np.ndarray, *, least_iou: float = 0.1) -> Correlation:
    """Correlate scores with IoUs over the detections that lie on an object.

    Args:
        scores: (D,) of all images together.
        ious: (D,) with the objects that they are matched with.
        least_iou: detections with a lower IoU are left out.

    Returns:
        NaN where fewer than two detections are left, or all have the same score or the same IoU.
    """
    kept = ious >= least_iou
    scores, ious = np.asarray(scores, dtype=np.float64)[kept], np.asarray(ious, dtype=np.float64)[kept]
    return Correlation(pearson(scores, ious), pearson(ranks(scores), ranks(ious)), len(scores))


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Return Pearson's coefficient of (n,) and (n,), NaN if n < 2 or one of them is constant."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    x, y = x - x.mean(), y - y.mean()
    return float(np.clip((x * y).sum() / math.sqrt((x * x).sum() * (y * y).sum()), -1, 1))


def ranks(values: np.ndarray) -> np.ndarray:
    """Return the ranks (n,) of values (n,) from 1, lowest first; equal ones share the mean of theirs."""
    _, of_value, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[of_value.reshape(-1)]
