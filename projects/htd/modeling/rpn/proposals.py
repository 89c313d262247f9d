"""How scored and regressed anchors become proposals.

Symbols: N images, L levels, R_l anchors of level l; n candidates of an image. Both rules take and return
the same; neither gives a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.layers import batched_nms
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Boxes, Instances
from torch import Tensor

from htd.layers.boxes import ContinuousBoxes
from htd.layers.sampling import full_precision


class ProposalRule:
    """The rule of the published HTD and TSD: boxes without area stay.

    Paper: Feature Pyramid Networks, section 4. On each level the anchors with the best scores are
    decoded and clipped to the image without padding, non-maximum suppression works within each
    level, and the best over all levels are kept. Detectron2 also drops boxes without area, which
    shifts what follows them in the ranking.

    Args:
        pre_nms_topk: (train, test) anchors kept on each level.
        post_nms_topk: (train, test) proposals kept in each image.
        nms_thresh: boxes with a larger IoU than this with a better one are suppressed.
        convention: clips boxes, see :mod:`htd.layers.boxes`; continuous if None.
    """

    def __init__(
        self,
        *,
        pre_nms_topk: tuple[int, int],
        post_nms_topk: tuple[int, int],
        nms_thresh: float = 0.7,
        convention: ContinuousBoxes | None = None,
    ):
        self.pre_nms_topk = tuple(pre_nms_topk)
        self.post_nms_topk = tuple(post_nms_topk)
        self.nms_thresh = nms_thresh
        self.convention = convention or ContinuousBoxes()

    @torch.no_grad()
    def __call__(
        self,
        anchors: Sequence[Tensor],
        logits: Sequence[Tensor],
        deltas: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
        *,
        transform: Box2BoxTransform,
        training: bool,
    ) -> list[Instances]:
        """Select proposals.

        Args:
            anchors: L tensors (R_l, 4), XYXY pixels of the resized input.
            logits: L tensors (N, R_l).
            deltas: L tensors (N, R_l, 4).
            image_sizes: (height, width) of the N images without padding.
            transform: decodes the deltas.
            training: which of the two limits holds.

        Returns:
            N items with ``proposal_boxes`` and ``objectness_logits``, best first.

        Note: anchors with a non-finite score or box are left out.
        """
        per_level = [
            self._best(*level, self.pre_nms_topk[not training], transform)
            for level in zip(anchors, logits, deltas, strict=True)
        ]
        levels = torch.cat(
            [s.new_full(s.shape[1:], i, dtype=torch.int64) for i, (_, s) in enumerate(per_level)]
        )
        boxes = torch.cat([boxes for boxes, _ in per_level], dim=1)
        scores = torch.cat([scores for _, scores in per_level], dim=1)
        keep_at_most = self.post_nms_topk[not training]
        return [
            self._suppress(self.convention.clip(b, size), s, levels, size, keep_at_most)
            for b, s, size in zip(boxes, scores, image_sizes, strict=True)
        ]

    @staticmethod
    def _best(
        anchors: Tensor, logits: Tensor, deltas: Tensor, at_most: int, transform: Box2BoxTransform
    ) -> tuple[Tensor, Tensor]:
        """Decode the best anchors of a level; return boxes (N, n, 4) and logits (N, n)."""
        # The order of the logits is the order of their sigmoids, and has fewer ties.
        scores, index = full_precision(logits).topk(min(at_most, logits.shape[1]), dim=1)
        deltas = deltas.gather(1, index[..., None].expand(-1, -1, 4))
        boxes = transform.apply_deltas(deltas.flatten(0, 1), anchors[index.flatten()])
        return boxes.view(*index.shape, 4), scores

    def _suppress(
        self, boxes: Tensor, scores: Tensor, levels: Tensor, image_size: tuple[int, int], at_most: int
    ) -> Instances:
        valid = self._valid(boxes, scores)
        boxes, scores, levels = boxes[valid], scores[valid], levels[valid]
        # Detectron2's function computes in float32 and wants both in it.
        keep = batched_nms(boxes, scores.float(), levels, self.nms_thresh)[:at_most]
        return Instances(image_size, proposal_boxes=Boxes(boxes[keep]), objectness_logits=scores[keep])

    def _valid(self, boxes: Tensor, scores: Tensor) -> Tensor:
        """Return which clipped boxes (n, 4) with scores (n,) take part in the suppression, bool."""
        return torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores)


class Detectron2ProposalRule(ProposalRule):
    """Detectron2's rule, which drops small boxes before the suppression, and that of the published cascades.

    Equal to its ``find_top_rpn_proposals``, except that in training, too, non-finite predictions are left
    out instead of raising.

    Args:
        pre_nms_topk, post_nms_topk, nms_thresh, convention: those of :class:`ProposalRule`.
        min_box_size: boxes with a side not larger than this many pixels are dropped.
    """

    def __init__(
        self,
        *,
        pre_nms_topk: tuple[int, int],
        post_nms_topk: tuple[int, int],
        nms_thresh: float = 0.7,
        min_box_size: float = 0.0,
        convention: ContinuousBoxes | None = None,
    ):
        super().__init__(
            pre_nms_topk=pre_nms_topk,
            post_nms_topk=post_nms_topk,
            nms_thresh=nms_thresh,
            convention=convention,
        )
        self.min_box_size = min_box_size

    def _valid(self, boxes: Tensor, scores: Tensor) -> Tensor:
        large = (boxes[:, 2:] - boxes[:, :2] > self.min_box_size).all(dim=1)
        return large & super()._valid(boxes, scores)
