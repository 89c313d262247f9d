"""Assignment and sampling of RoIs for the training of one stage.

Both parts take and return one ``Instances`` an image, with ``proposal_boxes`` in pixels of the
resized input. What they return also has ``gt_classes`` (in [0, K], K = background), ``gt_boxes``
(zeros for background), ``gt_index`` (the RoI's ground truth in its image; of no meaning for background)
and ``is_gt`` (the RoI is a ground-truth box that was put in). A box that is not finite overlaps nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.sampling import subsample_labels
from detectron2.structures import Boxes, Instances
from torch import Tensor

from htd.layers import low_quality_matches, paired_iou


class ReassigningMatcher(Matcher):
    """Matches boxes at one IoU; a ground truth takes those that are its best from other ground truths.

    Like Detectron2's ``Matcher`` with ``allow_low_quality_matches``, but a ground truth takes nothing
    below the IoU, and a box that it takes is also assigned to it (the published detectors' rule). So no box
    turns positive; a box that overlaps two objects may change from one to the other.

    Args:
        iou: least IoU of a positive.
    """

    def __init__(self, *, iou: float):
        super().__init__([iou], [0, 1], allow_low_quality_matches=False)
        self.iou = iou

    def __call__(self, match_quality_matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Return index and label (1 positive, 0 background), both (R,), for an IoU matrix (G, R)."""
        matched, labels = super().__call__(match_quality_matrix)
        best_of = low_quality_matches(match_quality_matrix, self.iou)
        return torch.where(best_of >= 0, best_of, matched), labels


class RoILabeler:
    """Labels all RoIs it is given and drops none (the rule of Detectron2's later cascade stages).

    Args:
        matcher: labels RoIs with 1 (foreground) and 0 (background) by their IoU with the ground truth.
        num_classes: K.
    """

    def __init__(self, *, matcher: Matcher, num_classes: int):
        self.matcher = matcher
        self.num_classes = num_classes

    @torch.no_grad()
    def __call__(self, proposals: Sequence[Instances], targets: Sequence[Instances]) -> list[Instances]:
        """Label the RoIs of every image; see the module's header for the fields."""
        labeled = []
        for proposals_i, target in zip(proposals, targets, strict=True):
            boxes = proposals_i.proposal_boxes.tensor
            matched, label = self.matcher(
                paired_iou(target.gt_boxes.tensor[:, None], boxes).nan_to_num(nan=0)
            )
            put_in = torch.zeros_like(label, dtype=torch.bool)
            labeled.append(self.with_fields(target, boxes, matched, label == 1, put_in))
        return labeled

    def with_fields(
        self, target: Instances, boxes: Tensor, matched: Tensor, positive: Tensor, put_in: Tensor
    ) -> Instances:
        """Return boxes (R, 4) of one image with the fields that the module's header names.

        Args:
            target: the image's ground truth.
            boxes: (R, 4).
            matched: (R,) int64, the ground truth of each box.
            positive: (R,) bool, which boxes belong to it.
            put_in: (R,) bool, which boxes are ground truth themselves.
        """
        samples = Instances(target.image_size, proposal_boxes=Boxes(boxes))
        samples.gt_classes = torch.full_like(matched, self.num_classes)
        samples.gt_boxes = Boxes(torch.zeros_like(boxes))
        samples.gt_classes[positive] = target.gt_classes[matched[positive]]
        samples.gt_boxes.tensor[positive] = target.gt_boxes.tensor[matched[positive]]
        samples.gt_index = matched
        samples.is_gt = put_in
        return samples


class RoISampler(RoILabeler):
    """Labels RoIs and draws a subset, with the ground truth among the candidates.

    Ground-truth boxes are put in front of the candidates, each assigned to itself by its index;
    those that an earlier stage had put in are left out first. The sample lists positives, then
    negatives, each by ascending candidate index.

    Args:
        matcher, num_classes: as in :class:`RoILabeler`.
        batch_size_per_image: RoIs to draw; fewer if there are not enough.
        positive_fraction: largest share of positives.
    """

    def __init__(
        self,
        *,
        matcher: Matcher,
        num_classes: int,
        batch_size_per_image: int = 512,
        positive_fraction: float = 0.25,
    ):
        super().__init__(matcher=matcher, num_classes=num_classes)
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction

    @torch.no_grad()
    def __call__(self, proposals: Sequence[Instances], targets: Sequence[Instances]) -> list[Instances]:
        """Draw the sample of every image; see the module's header for the fields."""
        samples = []
        for proposals_i, target in zip(proposals, targets, strict=True):
            boxes, truth = proposals_i.proposal_boxes.tensor, target.gt_boxes.tensor
            if proposals_i.has("is_gt"):
                boxes = boxes[~proposals_i.is_gt]
            matched, label = self.matcher(paired_iou(truth[:, None], boxes).nan_to_num(nan=0))
            itself = torch.arange(len(truth), device=boxes.device)
            matched = torch.cat([itself, matched])
            positive = torch.cat([itself >= 0, label == 1])
            chosen = subsample_labels(positive.long(), self.batch_size_per_image, self.positive_fraction, 0)
            rows = torch.cat([part.sort().values for part in chosen])
            boxes = torch.cat([truth, boxes])[rows]
            samples.append(self.with_fields(target, boxes, matched[rows], positive[rows], rows < len(truth)))
        return samples
