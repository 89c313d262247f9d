"""Non-maximum suppression within classes, hard and soft.

Both kinds are called with boxes (n, 4) XYXY in pixels, scores (n,) and classes (n,) int64, all finite (the
caller drops other rows), and return the kept rows (m,) int64 with their final scores (m,), best first, equal
ones in input order. Boxes of different classes never meet, and the result does not depend on how many boxes
there are: Hard-NMS has two ways of computing it, which are equal.

Symbols: K classes, W boxes of the largest class.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms

from htd.layers.sampling import full_precision

# Up to so many boxes Hard-NMS takes all classes in one call: its time grows with the square of all boxes,
# that of a call for each class with the square of the class. Milliseconds together and class by class (torch
# 2.15, torchvision 0.29, one CPU core), 80 classes: 500 boxes 0.3, 2.8; 1,000: 1.3, 3.4; 3,000: 12, 8;
# 12,000: 309, 13. With 3 classes: 500 boxes 0.5, 0.5; 1,000: 2.2, 1.6; 12,000: 256, 125. On other devices a
# call costs more than its boxes do; what limits is the memory for one bit a pair of boxes, here 200 MB.
_TOGETHER_ON_CPU = 1_000
_TOGETHER_ELSEWHERE = 40_000

# Steps of Soft-NMS between two looks at what is left; each look waits for the device.
_STEPS_UNSEEN = 16

# Candidates for each box wanted that the suppression is tried with first, and by how much more after each try
# that does not leave enough.
_TRIED_FIRST, _TRIED_NEXT = 20, 8


class HardNMS:
    """Drops a box that overlaps a better one of its class by more than a threshold.

    Args:
        iou_threshold: a box is dropped if its IoU is greater.
    """

    def __init__(self, *, iou_threshold: float):
        self.iou_threshold = iou_threshold

    def __call__(self, boxes: Tensor, scores: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Return kept rows (m,) and their scores (m,); see the module's header."""
        at_most = _TOGETHER_ON_CPU if boxes.is_cpu else _TOGETHER_ELSEWHERE
        # A trace would fix the classes that a loop meets.
        together = len(boxes) <= at_most or torch.jit.is_tracing()
        suppress = _suppress_together if together else _suppress_by_class
        keep = suppress(boxes.double(), scores.double(), classes, self.iou_threshold).sort()[0]
        return _best_first(keep, scores[keep])


def _suppress_together(boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float) -> Tensor:
    """Return the rows (m,) kept of float64 boxes (n, 4), the classes moved apart so that they cannot meet.

    The shift is a whole number, and float64 has 53 bits: even for 80 classes of boxes up to 10,000 pixels it
    leaves 33 of them behind the point, so coordinates in float32 from 2^-9 pixels on come through unchanged,
    and the rest is moved by less than 2^-33. In float32 only 4 bits would be left.
    """
    if not len(boxes):
        return classes
    span = (boxes.max() - boxes.min()).floor() + 1
    return nms(boxes + (classes * span)[:, None], scores, iou_threshold)


def _suppress_by_class(boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float) -> Tensor:
    """Return the same as `_suppress_together`, with a call for each class."""
    rows, counts = _by_class(torch.arange(len(classes), device=classes.device), classes)
    return torch.cat([of[nms(boxes[of], scores[of], iou_threshold)] for of in rows.split(counts.tolist())])


class LinearDecay:
    """Multiplies scores by 1 - IoU from a threshold on.

    Args:
        iou_threshold: IoU from which on, itself included, scores are lowered.
    """

    def __init__(self, iou_threshold: float):
        self.iou_threshold = iou_threshold

    def __call__(self, iou: Tensor) -> Tensor:
        """Return the factors for IoUs (K, W), in the same shape; an undefined IoU (no area) gives 1."""
        return torch.where(iou >= self.iou_threshold, 1 - iou, 1.0)


class GaussianDecay:
    """Multiplies scores by exp(-IoU^2 / sigma).

    Args:
        sigma: the larger, the less is lost; positive.
    """

    def __init__(self, sigma: float):
        self.sigma = sigma

    def __call__(self, iou: Tensor) -> Tensor:
        """Return the factors for IoUs (K, W), in the same shape; an undefined IoU (no area) gives 1."""
        return torch.exp(-(iou.nan_to_num(0.0) ** 2) / self.sigma)


class SoftNMS:
    """Lowers the scores of boxes that overlap better ones of their class.

    Paper: Soft-NMS, algorithm 1, https://arxiv.org/abs/1704.04503. The box with the largest current score is
    put out; the others of its class are decayed by their IoU with it. As in the published routine, every box
    that is left is dropped as soon as its score is below ``min_score``, decayed or not: only the best box of
    all is put out in any case. All classes advance together, so that there are as many steps as the largest
    class has boxes.

    Args:
        method: ``"linear"`` or ``"gaussian"``.
        iou_threshold: IoU from which on, itself included, the linear method decays.
        sigma: width of the Gaussian method.
        min_score: boxes with a score below it are dropped.

    Raises:
        ValueError: the method is neither.
    """

    def __init__(
        self,
        *,
        method: str = "linear",
        iou_threshold: float = 0.5,
        sigma: float = 0.5,
        min_score: float = 0.05,
    ):
        decays = {"linear": LinearDecay(iou_threshold), "gaussian": GaussianDecay(sigma)}
        if method not in decays:
            raise ValueError(f"Soft-NMS has the methods {', '.join(decays)}, not {method!r}")
        self.decay = decays[method]
        self.min_score = min_score

    def __call__(self, boxes: Tensor, scores: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Return kept rows (m,) and their final scores (m,); see the module's header."""
        boxes, current = full_precision(boxes), full_precision(scores).clone()
        final = torch.full_like(current, -torch.inf)
        stays = current >= self.min_score
        stays[current.argsort(descending=True, stable=True)[:1]] = True
        left = stays.nonzero()[:, 0]
        while len(left):
            # Laid out anew now and then, so that one large class does not drag all others' places along.
            rows, filled = _class_table(left, classes)
            table = current[rows].masked_fill_(~filled, -torch.inf)
            put_out, put_out_scores = self._advance_(boxes[rows], table)
            real = put_out_scores > -torch.inf
            final[rows.gather(1, put_out)[real]] = put_out_scores[real]
            alive = table > -torch.inf
            left = rows[alive]
            current[left] = table[alive]
        keep = (final > -torch.inf).nonzero()[:, 0]
        return _best_first(keep, final[keep].to(scores.dtype))

    def _advance_(self, boxes: Tensor, current: Tensor) -> tuple[Tensor, Tensor]:
        """Put out the best boxes of each class, one after the other, and decay the rest in place.

        Args:
            boxes: (K, W, 4).
            current: scores (K, W), -inf where there is no box, or none any more. Changed in place.

        Returns:
            Columns (K, steps) of what was put out, and scores, -inf where the class had nothing left.
        """
        area = (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1)
        columns, scores = [], []
        for _ in range(min(_STEPS_UNSEEN, current.shape[1])):
            best = current.argmax(dim=1, keepdim=True)
            columns.append(best)
            scores.append(current.gather(1, best))
            current.scatter_(1, best, -torch.inf)
            current *= self.decay(_iou_with(boxes, area, best))
            # Written so that -inf times 0, at places that are done already, is dropped as well.
            current.masked_fill_(~(current >= self.min_score), -torch.inf)
        return torch.cat(columns, dim=1), torch.cat(scores, dim=1)


def suppress_best(
    nms: HardNMS | SoftNMS, boxes: Tensor, scores: Tensor, classes: Tensor, at_most: int
) -> tuple[Tensor, Tensor]:
    """Return the ``at_most`` best rows (m,) that ``nms`` keeps, and their final scores (m,); see the header.

    Suppresses among as few candidates as are needed: they can be ten thousands, where a threshold is low. No
    kind of suppression lets a candidate act on one that scores better in the end, so the best candidates can
    be suppressed alone: if enough of them stay above all others, those others do not matter.
    """
    count = _TRIED_FIRST * at_most
    while count < len(scores):
        others_at_most = scores.topk(count).values[-1]
        better = (scores > others_at_most).nonzero()[:, 0]
        keep, final = nms(boxes[better], scores[better], classes[better])
        if (final > others_at_most).sum() >= at_most:
            return better[keep[:at_most]], final[:at_most]
        count *= _TRIED_NEXT
    keep, final = nms(boxes, scores, classes)
    return keep[:at_most], final[:at_most]


def _best_first(rows: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Sort rows (m,) by their scores (m,), descending."""
    order = scores.argsort(descending=True, stable=True)
    return rows[order], scores[order]


def _by_class(rows: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Sort rows (r,) by class, those of a class as given; return them and each class's number (K,)."""
    of_class, order = classes[rows].sort(stable=True)
    return rows[order], torch.unique_consecutive(of_class, return_counts=True)[1]


def _class_table(rows: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Lay out rows (r,), at least one, by class.

    Returns:
        The rows of each class (K, W), filled up with 0, and where they are real (K, W) bool.
    """
    rows, counts = _by_class(rows, classes)
    filled = torch.arange(int(counts.max()), device=rows.device) < counts[:, None]
    table = rows.new_zeros(filled.shape)
    table[filled] = rows
    return table, filled


def _iou_with(boxes: Tensor, area: Tensor, best: Tensor) -> Tensor:
    """Return the IoU (K, W) of boxes (K, W, 4) with the one of each class that ``best`` (K, 1) names.

    Areas are not clamped, as in the published routine; 0 / 0 gives NaN.
    """
    chosen = boxes.gather(1, best[..., None].expand(-1, -1, 4))
    low = torch.maximum(boxes[..., :2], chosen[..., :2])
    high = torch.minimum(boxes[..., 2:], chosen[..., 2:])
    inter = (high - low).clamp(min=0).prod(dim=-1)
    return inter / (area + area.gather(1, best) - inter)
