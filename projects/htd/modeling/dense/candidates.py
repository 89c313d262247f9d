"""Which predictions of a dense detector compete in the suppression.

A prior with one of its classes is a pair. What is not finite, a box or any score of a prior, leaves the prior
out. Of equal scores the prior, then the class, with the lower index is the better one.

Symbols: P priors of all levels, K classes, n pairs. Boxes are XYXY; sizes are (height, width).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from htd.layers import rescale_boxes
from htd.modeling.dense.checks import check_whole


@dataclass(frozen=True)
class Candidates:
    """Scored boxes of one image before the suppression.

    Attributes:
        boxes: (n, 4), finite, pixels of the frame ``image_size`` names.
        scores: (n,) finite.
        classes: (n,) int64 in [0, K).
        image_size: (height, width) of the frame, numbers that need not be whole.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    image_size: tuple[float, float]

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, rows: Tensor) -> Candidates:
        """Return the candidates that ``rows``, indices or a mask, name."""
        return replace(self, boxes=self.boxes[rows], scores=self.scores[rows], classes=self.classes[rows])

    def resized(self, height: float, width: float) -> Candidates:
        """Return the candidates in a frame of ``height`` x ``width`` pixels. Nothing is clipped."""
        size = (height, width)
        return replace(self, boxes=rescale_boxes(self.boxes, self.image_size, size), image_size=size)

    @staticmethod
    def joined(parts: Sequence[Candidates]) -> Candidates:
        """Return the candidates of several parts, one at least, all in the frame of the first."""
        values = (torch.cat([getattr(x, name) for x in parts]) for name in ("boxes", "scores", "classes"))
        return Candidates(*values, parts[0].image_size)


class PairSelection:
    """Keeps the best pairs of each level that score above a threshold: TOOD's, ATSS's and Detectron2's way.

    A centerness does not take part: pairs are compared by the score of the class alone.

    Args:
        score_threshold: pairs must score above it.
        topk: pairs to keep in a level.

    Raises:
        UserError: ``topk`` is no whole number from 1 on.
    """

    def __init__(self, *, score_threshold: float = 0.05, topk: int = 1000):
        self.score_threshold = score_threshold
        check_whole("topk of a selection of dense candidates (model.postprocessing)", topk, 1)
        self.topk = topk

    def __call__(
        self, scores: Tensor, boxes: Tensor, centerness: Tensor | None, level_sizes: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Return the pairs that are kept.

        Args:
            scores: (P, K) probabilities.
            boxes: (P, 4).
            centerness: (P,) probabilities, or None.
            level_sizes: priors of each level; they add up to P.

        Returns:
            Priors (n,) and classes (n,), int64, level by level, in a level best first.
        """
        above = (scores > self.score_threshold) & _usable(scores, boxes, centerness)[:, None]
        rows, classes = above.nonzero(as_tuple=True)
        ends = torch.tensor([0, *level_sizes], device=rows.device).cumsum(0)
        # Rows are in ascending order, so the pairs of a level are neighbours.
        counts = torch.searchsorted(rows, ends).diff().tolist()
        kept = _best_of_each(scores[rows, classes], counts, self.topk)
        return rows[kept], classes[kept]


class BestClass:
    """Ranks priors by the score of their best class: GFL's, RetinaNet's and SALT's way."""

    def __call__(self, scores: Tensor, centerness: Tensor | None) -> Tensor:
        """Return the rank (P,), more is better, of scores (P, K)."""
        return scores.amax(dim=1)


class BestClassTimesCenterness:
    """Ranks priors by their best class's score times their centerness: FCOS's and the older ATSS's way."""

    def __call__(self, scores: Tensor, centerness: Tensor | None) -> Tensor:
        """Return the rank (P,), more is better, of scores (P, K); without a centerness that of the class."""
        best = scores.amax(dim=1)
        return best if centerness is None else best * centerness


class LocationSelection:
    """Keeps the best priors of each level, then all their pairs that score above a threshold.

    The way of GFL, SALT, RetinaNet and FCOS as published, and of the weights of TOOD's authors.

    Args:
        score_threshold: pairs must score above it, by the score of the class alone.
        topk: priors to keep in a level.
        ranking: compares priors, :class:`BestClass` or :class:`BestClassTimesCenterness`; the first if None.

    Raises:
        UserError: ``topk`` is no whole number from 1 on.
    """

    def __init__(
        self,
        *,
        score_threshold: float = 0.05,
        topk: int = 1000,
        ranking: BestClass | BestClassTimesCenterness | None = None,
    ):
        self.score_threshold = score_threshold
        check_whole("topk of a selection of dense candidates (model.postprocessing)", topk, 1)
        self.topk = topk
        self.ranking = BestClass() if ranking is None else ranking

    def __call__(
        self, scores: Tensor, boxes: Tensor, centerness: Tensor | None, level_sizes: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Return the pairs that are kept: as :meth:`PairSelection.__call__`, in a level prior by prior."""
        usable = _usable(scores, boxes, centerness)
        ranks = self.ranking(scores, centerness).masked_fill(~usable, -torch.inf)
        rows = _best_of_each(ranks, level_sizes, self.topk).sort()[0]
        above = (scores[rows] > self.score_threshold) & usable[rows, None]
        picked, classes = above.nonzero(as_tuple=True)
        return rows[picked], classes


def _usable(scores: Tensor, boxes: Tensor, centerness: Tensor | None) -> Tensor:
    """Return which priors (P,) have nothing that is not finite, bool."""
    # Of a row of probabilities the sum is finite if all are, and no mask of the size of the scores is made.
    usable = torch.isfinite(scores.sum(dim=1)) & torch.isfinite(boxes).all(dim=1)
    return usable if centerness is None else usable & torch.isfinite(centerness)


def _best_of_each(values: Tensor, counts: Sequence[int], at_most: int) -> Tensor:
    """Return the rows (n,) of the best values (m,) of each level, ``counts`` of which follow each other."""
    found, start = [], 0
    for level in values.split(list(counts)):
        found.append(start + _best(level, at_most))
        start += len(level)
    return torch.cat(found)


def _best(values: Tensor, at_most: int) -> Tensor:
    """Return the rows of the ``at_most`` largest values (m,), none NaN: largest first, equal in order."""
    if len(values) <= at_most:
        return values.argsort(descending=True, stable=True)
    # A sort of all takes longer than to find the last value that stays, and topk does not say which of equal
    # values it returns.
    rows = (values >= values.topk(at_most).values[-1]).nonzero()[:, 0]
    return rows[values[rows].argsort(descending=True, stable=True)[:at_most]]
