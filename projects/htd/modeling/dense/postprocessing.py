"""From the predictions at all priors to the detections of an image.

Two steps: choose the boxes that enter the non-maximum suppression (NMS), in pixels of the resized input, then
select the detections among them, in the output frame. Test-time augmentation joins the boxes of several views
between the two.

A pair is a prior with one of its classes. A prior with a box or any score that is not finite is left out. Of
equal scores the prior, then the class, with the lower index ranks first.

Symbols: N images, P priors of all levels, K classes, n pairs, D detections. Boxes are XYXY; sizes are
(height, width).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from torch import Tensor

from htd.layers import HardNMS, SoftNMS, clip_boxes, rescale_boxes, suppress_best
from htd.modeling.dense.boxes import Priors
from htd.modeling.dense.head import DensePredictions


@dataclass(frozen=True)
class PreNMSBoxes:
    """Scored boxes of one image before the NMS.

    Attributes:
        boxes: (n, 4), finite, in pixels of the frame that ``image_size`` names.
        scores: (n,) finite.
        classes: (n,) int64 in [0, K).
        image_size: (height, width) of the frame, not necessarily integers.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    image_size: tuple[float, float]

    def __len__(self) -> int:
        return len(self.scores)

    def resized(self, height: float, width: float) -> PreNMSBoxes:
        """Return the boxes in a frame of ``height`` x ``width`` pixels. Nothing is clipped."""
        size = (height, width)
        return replace(self, boxes=rescale_boxes(self.boxes, self.image_size, size), image_size=size)

    @staticmethod
    def cat(parts: Sequence[PreNMSBoxes]) -> PreNMSBoxes:
        """Return the boxes of several parts, at least one, all in the frame of the first."""
        values = (torch.cat([getattr(x, name) for x in parts]) for name in ("boxes", "scores", "classes"))
        return PreNMSBoxes(*values, parts[0].image_size)


class PairTopK:
    """Keeps the best pairs of each level that score above a threshold; centerness takes no part.

    Paper: Focal Loss for Dense Object Detection, section 4.1, https://arxiv.org/abs/1708.02002

    Args:
        score_threshold: pairs have to score above it.
        topk: pairs to keep per level.
    """

    def __init__(self, *, score_threshold: float = 0.05, topk: int = 1000):
        if topk < 1:
            raise ValueError(f"topk is {topk}; it has to be at least 1")
        self.score_threshold = score_threshold
        self.topk = topk

    def __call__(
        self, scores: Tensor, boxes: Tensor, centerness: Tensor | None, level_sizes: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Return the pairs that are kept.

        Args:
            scores: (P, K) probabilities.
            boxes: (P, 4).
            centerness: (P,) probabilities, or None.
            level_sizes: number of priors of each level; they add up to P.

        Returns:
            Priors (n,) and classes (n,), int64, level by level, in a level best first.
        """
        above = (scores > self.score_threshold) & _is_finite(scores, boxes, centerness)[:, None]
        priors, classes = above.nonzero(as_tuple=True)
        ends = torch.tensor([0, *level_sizes], device=priors.device).cumsum(0)
        # Priors are in ascending order, so the pairs of a level are neighbors.
        counts = torch.searchsorted(priors, ends).diff().tolist()
        kept = _best_of_levels(scores[priors, classes], counts, self.topk)
        return priors[kept], classes[kept]


class BestClass:
    """Ranks priors by the score of their best class."""

    def __call__(self, scores: Tensor, centerness: Tensor | None) -> Tensor:
        """Return the rank (P,), more is better, of scores (P, K)."""
        return scores.amax(dim=1)


class BestClassTimesCenterness:
    """Ranks priors by the score of their best class times their centerness, if there is one."""

    def __call__(self, scores: Tensor, centerness: Tensor | None) -> Tensor:
        """Return the rank (P,), more is better, of scores (P, K)."""
        best = scores.amax(dim=1)
        return best if centerness is None else best * centerness


class LocationTopK:
    """Keeps the best priors of each level, then all their pairs that score above a threshold.

    Published in code only.

    Args:
        score_threshold: pairs have to score above it, by the score of the class alone.
        topk: priors to keep per level.
        ranking: compares priors; :class:`BestClass` if None.
    """

    def __init__(
        self,
        *,
        score_threshold: float = 0.05,
        topk: int = 1000,
        ranking: BestClass | BestClassTimesCenterness | None = None,
    ):
        if topk < 1:
            raise ValueError(f"topk is {topk}; it has to be at least 1")
        self.score_threshold = score_threshold
        self.topk = topk
        self.ranking = BestClass() if ranking is None else ranking

    def __call__(
        self, scores: Tensor, boxes: Tensor, centerness: Tensor | None, level_sizes: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Return the pairs that are kept, as in :meth:`PairTopK.__call__`, in a level prior by prior."""
        finite = _is_finite(scores, boxes, centerness)
        ranks = self.ranking(scores, centerness).masked_fill(~finite, -torch.inf)
        priors = _best_of_levels(ranks, level_sizes, self.topk).sort()[0]
        above = (scores[priors] > self.score_threshold) & finite[priors, None]
        rows, classes = above.nonzero(as_tuple=True)
        return priors[rows], classes


def _is_finite(scores: Tensor, boxes: Tensor, centerness: Tensor | None) -> Tensor:
    """Return which priors (P,) hold only finite numbers, bool."""
    # A sum of probabilities is finite if all are, and no mask of the size of the scores is made.
    finite = torch.isfinite(scores.sum(dim=1)) & torch.isfinite(boxes).all(dim=1)
    return finite if centerness is None else finite & torch.isfinite(centerness)


def _best_of_levels(values: Tensor, counts: Sequence[int], topk: int) -> Tensor:
    """Return the indices of the ``topk`` largest values of each level, largest first, equal ones in order.

    Args:
        values: (m,) of all levels, none NaN.
        counts: number of values of each level; they add up to m.
        topk: values to keep per level.
    """
    best, start = [], 0
    for level in values.split(list(counts)):
        if len(level) > topk:
            # Sorting all values takes longer than finding the last one to keep. topk() alone would not do: it
            # does not say which of equal values it returns.
            candidates = (level >= level.topk(topk).values[-1]).nonzero()[:, 0]
            order = level[candidates].argsort(descending=True, stable=True)[:topk]
            best.append(start + candidates[order])
        else:
            best.append(start + level.argsort(descending=True, stable=True))
        start += len(level)
    return torch.cat(best)


class DensePostProcessing:
    """What the two orders of post-processing share.

    A detection scores the probability of its class, times its centerness if the head has that branch; the
    threshold before the NMS reads the probability of the class alone, and there is no second one.

    Args:
        pre_nms: which pairs enter the NMS.
        nms: suppresses among the boxes of one class.
        max_detections: the best that are kept of an image.
        num_classes: K without extra classes of the head, whose detections are dropped last, when they have
            taken a place among the ``max_detections``. None: the head has no extra classes.
        clip: clip boxes to the resized input before the NMS.
    """

    def __init__(
        self,
        *,
        pre_nms: PairTopK | LocationTopK,
        nms: HardNMS | SoftNMS,
        max_detections: int = 100,
        num_classes: int | None = None,
        clip: bool = False,
    ):
        if max_detections < 1:
            raise ValueError(f"max_detections is {max_detections}; it has to be at least 1")
        self.pre_nms = pre_nms
        self.nms = nms
        self.max_detections = max_detections
        self.num_classes = num_classes
        self.clip = clip

    def pre_nms_boxes(
        self,
        priors: Priors,
        predictions: DensePredictions,
        boxes: Tensor,
        image_sizes: Sequence[tuple[int, int]],
    ) -> list[PreNMSBoxes]:
        """Choose the boxes of each image that enter the NMS, in pixels of the resized input.

        Args:
            priors: of the batch.
            predictions: at the priors.
            boxes: (N, P, 4), decoded from them.
            image_sizes: of the resized inputs, without padding.
        """
        scores, centerness = predictions.logits.sigmoid(), predictions.centerness
        centerness = [None] * len(scores) if centerness is None else centerness.sigmoid()
        return [
            self.choose(*image, priors.level_sizes, image_size)
            for *image, image_size in zip(scores, boxes, centerness, image_sizes, strict=True)
        ]

    def choose(
        self,
        scores: Tensor,
        boxes: Tensor,
        centerness: Tensor | None,
        level_sizes: Sequence[int],
        image_size: tuple[int, int],
    ) -> PreNMSBoxes:
        """Choose those of one image; arguments as in :meth:`PairTopK.__call__`."""
        prior, classes = self.pre_nms(scores, boxes, centerness, level_sizes)
        pair_scores, pair_boxes = scores[prior, classes], boxes[prior]
        if centerness is not None:
            pair_scores = pair_scores * centerness[prior]
        if self.clip:
            pair_boxes = clip_boxes(pair_boxes, image_size)
        return PreNMSBoxes(pair_boxes, pair_scores, classes, image_size)

    def select(self, pre_nms_boxes: PreNMSBoxes, size: tuple[float, float]) -> Instances:
        """Select the detections of one image.

        Args:
            pre_nms_boxes: in any frame of the whole image.
            size: (height, width) of the output frame.

        Returns:
            ``pred_boxes``, ``scores`` and ``pred_classes`` of D detections in the output frame, best first.
        """
        raise NotImplementedError

    def _suppress(self, boxes: Tensor, scores: Tensor, classes: Tensor, size: tuple[float, float]):
        """Return the best detections that the NMS leaves, in the frame of the boxes, which ``size`` names."""
        keep, kept_scores = suppress_best(self.nms, boxes, scores, classes, self.max_detections)
        best = Instances(size, pred_boxes=Boxes(boxes[keep]), scores=kept_scores, pred_classes=classes[keep])
        return best if self.num_classes is None else best[best.pred_classes < self.num_classes]


class SuppressFirst(DensePostProcessing):
    """Suppresses, then rescales, clips and drops empty boxes: Detectron2's order.

    What is dropped has taken a place among the ``max_detections``.
    """

    def select(self, pre_nms_boxes: PreNMSBoxes, size: tuple[float, float]) -> Instances:
        """See :class:`DensePostProcessing`."""
        x = pre_nms_boxes
        return detector_postprocess(self._suppress(x.boxes, x.scores, x.classes, x.image_size), *size)


class RescaleFirst(DensePostProcessing):
    """Rescales boxes to the output frame and suppresses there: the order of the published detectors.

    Nothing is clipped after the NMS.

    Args:
        pre_nms, nms, max_detections, num_classes, clip: see :class:`DensePostProcessing`.
        min_box_size: boxes have to be wider and higher, in pixels of the output frame; None keeps all.
    """

    def __init__(
        self,
        *,
        pre_nms: PairTopK | LocationTopK,
        nms: HardNMS | SoftNMS,
        max_detections: int = 100,
        num_classes: int | None = None,
        clip: bool,
        min_box_size: float | None,
    ):
        super().__init__(
            pre_nms=pre_nms, nms=nms, max_detections=max_detections, num_classes=num_classes, clip=clip
        )
        self.min_box_size = -torch.inf if min_box_size is None else min_box_size

    def select(self, pre_nms_boxes: PreNMSBoxes, size: tuple[float, float]) -> Instances:
        """See :class:`DensePostProcessing`."""
        resized = pre_nms_boxes.resized(*size)
        x1, y1, x2, y2 = resized.boxes.unbind(dim=1)
        large = (x2 - x1 > self.min_box_size) & (y2 - y1 > self.min_box_size)
        return self._suppress(resized.boxes[large], resized.scores[large], resized.classes[large], size)
