"""From the scores and boxes of all priors to the detections of an image.

Two steps: the candidates of the image, in pixels of the resized input, then those that remain of them in the
output frame. What looks at an image several times joins the candidates of all times in between.

Symbols: P priors of all levels, K classes, D detections. Boxes are XYXY; sizes are (height, width).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from torch import Tensor

from htd.layers import HardNMS, SoftNMS, clip_boxes, suppress_best
from htd.modeling.dense.candidates import Candidates, LocationSelection, PairSelection
from htd.modeling.dense.checks import check_whole


class DensePostProcessing:
    """What both orders below share.

    A detection scores its class's probability, times its centerness where a head has that branch; the
    thresholds of the selection read the class alone, and there is no second one.

    Args:
        selection: which pairs of a prior and a class are candidates.
        nms: suppresses among the candidates of a class.
        max_detections: the best that are kept of an image.
        num_classes: K without classes that only the head has; detections of those are dropped last, when they
            have taken a place among the ``max_detections``. None: the head has no such classes.

    Raises:
        UserError: ``max_detections`` is no whole number from 1 on.
    """

    def __init__(
        self,
        *,
        selection: PairSelection | LocationSelection,
        nms: HardNMS | SoftNMS,
        max_detections: int = 100,
        num_classes: int | None = None,
    ):
        check_whole("model.postprocessing.max_detections", max_detections, 1)
        self.num_classes = num_classes
        self.selection = selection
        self.nms = nms
        self.max_detections = max_detections

    def candidates(
        self,
        scores: Tensor,
        boxes: Tensor,
        centerness: Tensor | None,
        level_sizes: Sequence[int],
        image_size: tuple[float, float],
    ) -> Candidates:
        """Choose what is suppressed, in pixels of the resized input.

        Args:
            scores: (P, K) probabilities.
            boxes: (P, 4) in pixels of the resized input.
            centerness: (P,) probabilities, None without such a branch.
            level_sizes: priors of each level; they add up to P.
            image_size: of the resized input, without padding.
        """
        rows, classes = self.selection(scores, boxes, centerness, level_sizes)
        found = scores[rows, classes]
        if centerness is not None:
            found = found * centerness[rows]
        return Candidates(boxes[rows], found, classes, image_size)

    def detections(self, candidates: Candidates, size: tuple[float, float]) -> Instances:
        """Suppress among candidates of one image.

        Args:
            candidates: in any frame of the whole image.
            size: (height, width) of the output frame.

        Returns:
            ``pred_boxes``, ``scores`` and ``pred_classes`` of D detections in the output frame, best first.
        """
        raise NotImplementedError

    def _best(self, candidates: Candidates) -> Instances:
        """Return the best that the suppression leaves, in the frame of the candidates."""
        boxes, scores, classes = candidates.boxes, candidates.scores, candidates.classes
        keep, kept_scores = suppress_best(self.nms, boxes, scores, classes, self.max_detections)
        best = Instances(
            candidates.image_size,
            pred_boxes=Boxes(boxes[keep]),
            scores=kept_scores,
            pred_classes=classes[keep],
        )
        return best if self.num_classes is None else best[best.pred_classes < self.num_classes]


class SuppressFirst(DensePostProcessing):
    """Suppresses, then rescales, clips and drops what is empty: Detectron2's order.

    What is dropped has taken a place among the ``max_detections``.
    """

    def detections(self, candidates: Candidates, size: tuple[float, float]) -> Instances:
        """Suppress among candidates of one image, see :meth:`DensePostProcessing.detections`."""
        return detector_postprocess(self._best(candidates), *size)


class RescaleFirst(DensePostProcessing):
    """Brings candidates to the output frame and suppresses there: the order of the published detectors.

    Nothing is clipped after the suppression.

    Args:
        selection: which pairs of a prior and a class are candidates.
        nms: suppresses among the candidates of a class.
        max_detections, num_classes: see :class:`DensePostProcessing`.
        clip: clip candidates to the resized input before anything else (ATSS, GFL, RetinaNet, FCOS, and the
            authors' own TOOD), or never (TOOD).
        min_box_size: candidates have to be wider and higher, in pixels of the output frame; None keeps all.

    Raises:
        UserError: ``max_detections`` is no whole number from 1 on.
    """

    def __init__(
        self,
        *,
        selection: PairSelection | LocationSelection,
        nms: HardNMS | SoftNMS,
        max_detections: int = 100,
        num_classes: int | None = None,
        clip: bool,
        min_box_size: float | None,
    ):
        super().__init__(selection=selection, nms=nms, max_detections=max_detections, num_classes=num_classes)
        self.clip = clip
        self.min_box_size = -torch.inf if min_box_size is None else min_box_size

    def candidates(self, scores, boxes, centerness, level_sizes, image_size) -> Candidates:
        """Choose what is suppressed, see :meth:`DensePostProcessing.candidates`, and clip it if wanted."""
        found = super().candidates(scores, boxes, centerness, level_sizes, image_size)
        return replace(found, boxes=clip_boxes(found.boxes, image_size)) if self.clip else found

    def detections(self, candidates: Candidates, size: tuple[float, float]) -> Instances:
        """Suppress among candidates of one image, see :meth:`DensePostProcessing.detections`."""
        candidates = candidates.resized(*size)
        x1, y1, x2, y2 = candidates.boxes.unbind(dim=1)
        large = (x2 - x1 > self.min_box_size) & (y2 - y1 > self.min_box_size)
        return self._best(candidates[large])
