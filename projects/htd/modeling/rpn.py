"""Region proposal network with the rules of the published detectors.

Paper: Faster R-CNN, section 3.1, https://arxiv.org/abs/1506.01497; on the levels of a pyramid: Feature
Pyramid Networks for Object Detection, section 4.1, https://arxiv.org/abs/1612.03144.

For every image: anchors -> labels and a sample of them -> losses of the sample; scores and deltas of all
anchors -> proposals. The parts that differ from Detectron2's are passed in.

Symbols: N images, L levels, R_l anchors of level l, R of all levels, G ground-truth boxes of an image. Boxes
are XYXY in pixels of the resized input; image sizes are (height, width) without padding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from detectron2.modeling import ANCHOR_GENERATOR_REGISTRY, PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.sampling import subsample_labels
from detectron2.structures import Boxes, Instances
from fvcore.nn import smooth_l1_loss
from torch import Tensor, nn
from torchvision.ops import batched_nms

from htd.layers import ContinuousBoxes, InclusiveBoxes, full_precision, match_by_iou, within_padding


@ANCHOR_GENERATOR_REGISTRY.register()
class RoundedAnchorGenerator(DefaultAnchorGenerator):
    """Detectron2's generator with the base anchors of the older published detectors.

    Paper: Faster R-CNN, section 3.1.1, https://arxiv.org/abs/1506.01497, as released. Anchors name their
    first and last pixels, which are rounded to whole numbers, and are centered at (stride - 1) / 2, the
    middle of the pixels of a cell. They are kept as the areas that these pixels cover, see
    :mod:`htd.layers.boxes`.

    Args:
        sizes: of each level, the square roots of the anchors' areas in pixels.
        aspect_ratios: height over width; the same for all levels.
        strides: pixels of the resized input a cell of each level.

    Attributes:
        box_convention: the convention of boxes that these anchors belong to.
    """

    box_convention = InclusiveBoxes

    def __init__(
        self, *, sizes: Sequence[Sequence[float]], aspect_ratios: Sequence[float], strides: Sequence[int]
    ):
        super().__init__(sizes=sizes, aspect_ratios=aspect_ratios, strides=strides, offset=0.0)
        for base, stride in zip(self.cell_anchors, self.strides, strict=True):
            center, size = (stride - 1) / 2, base[:, 2:] - base[:, :2]
            first, last = center - (size - 1) / 2, center + (size - 1) / 2
            base.copy_(torch.cat([first.round(), last.round() + 1], dim=1))


class AnchorLabeler:
    """Labels anchors by their overlap with the ground truth.

    Paper: Faster R-CNN, section 3.1.2, https://arxiv.org/abs/1506.01497. Only anchors within the image take
    part in the matching. Detectron2 matches all and drops those beyond the image afterwards: an object whose
    best anchor is dropped then has none.

    Args:
        positive_iou, negative_iou, low_quality_iou: thresholds in [0, 1], see
            :func:`htd.layers.match_by_iou`.
        allowed_border: pixels an anchor may reach beyond the image; negative: there is no such limit.
        pad_divisor: an image's sides are padded to multiples of this; anchors of cells beyond an image's own
            padding (in a batch with a larger image) never take part.
        pairs_at_once: pairs of anchor and ground truth held in memory at a time.
    """

    def __init__(
        self,
        *,
        positive_iou: float = 0.7,
        negative_iou: float = 0.3,
        low_quality_iou: float = 0.3,
        allowed_border: float = 0,
        pad_divisor: int = 32,
        pairs_at_once: int = 2**22,
    ):
        self.positive_iou = positive_iou
        self.negative_iou = negative_iou
        self.low_quality_iou = low_quality_iou
        self.allowed_border = allowed_border
        self.pad_divisor = pad_divisor
        self.pairs_at_once = pairs_at_once

    def __call__(
        self,
        anchors: Sequence[Tensor],
        strides: Sequence[int],
        gt_boxes: Tensor,
        image_size: tuple[int, int],
        convention: ContinuousBoxes,
    ) -> tuple[Tensor, Tensor]:
        """Label the anchors of one image.

        Args:
            anchors: L tensors (R_l, 4), centered on their cells.
            strides: pixels a cell of each level.
            gt_boxes: (G, 4).
            image_size: of the image.
            convention: compares boxes with the border of the image.

        Returns:
            labels (R,) int64: 1 positive, 0 negative, -1 not used; index (R,) int64 of the ground truth that
            a positive anchor belongs to, 0 elsewhere. Without ground truth all anchors that take part are
            negative; if none takes part all labels are -1.
        """
        boxes = torch.cat(list(anchors))
        takes_part = within_padding(anchors, strides, image_size, self.pad_divisor)
        if self.allowed_border >= 0:
            takes_part &= convention.inside(boxes, image_size, self.allowed_border)
        labels = torch.full_like(takes_part, -1, dtype=torch.int64)
        matched = torch.zeros_like(labels)
        labels[takes_part], matched[takes_part] = match_by_iou(
            boxes[takes_part],
            gt_boxes,
            positive_iou=self.positive_iou,
            negative_iou=self.negative_iou,
            low_quality_iou=self.low_quality_iou,
            pairs_at_once=self.pairs_at_once,
        )
        return labels, matched


class SampledAnchors:
    """Normalizes the losses by the number of sampled anchors, as the published detectors do.

    Positives and negatives of an image count as ``least_each`` at least, but an image without any sampled
    anchor (it is too small for one) does not count at all. Detectron2 divides by the size that samples may
    have.

    Args:
        least_each: what an image without positives, or without negatives, counts instead.
    """

    def __init__(self, *, least_each: int = 1):
        self.least_each = least_each

    def __call__(self, labels: Tensor) -> Tensor:
        """Return the count for labels (N, R) after sampling, a scalar of int64; at least 1."""
        positive = (labels == 1).sum(dim=1)
        negative = (labels == 0).sum(dim=1)
        count = positive.clamp(min=self.least_each) + negative.clamp(min=self.least_each)
        return (count * (positive + negative > 0)).sum().clamp(min=1)


class ProposalRule:
    """Selects proposals among scored and regressed anchors.

    Paper: Feature Pyramid Networks, section 4.1, https://arxiv.org/abs/1612.03144. On each level the anchors
    with the best scores are decoded and clipped to the image, non-maximum suppression works within each
    level, and the best of all levels are kept. With ``min_box_size=0`` this is Detectron2's
    ``find_top_rpn_proposals``, which, however, raises an error for non-finite predictions in training. Some
    published detectors keep boxes without area, as a negative size does; this shifts what follows them in the
    ranking.

    Args:
        pre_nms_topk: (train, test) anchors kept on each level.
        post_nms_topk: (train, test) proposals kept in each image.
        nms_thresh: boxes with a larger IoU than this with a better one are suppressed.
        min_box_size: boxes are dropped unless both sides are larger than this, in pixels.
    """

    def __init__(
        self,
        *,
        pre_nms_topk: tuple[int, int],
        post_nms_topk: tuple[int, int],
        nms_thresh: float = 0.7,
        min_box_size: float = -1.0,
    ):
        self.pre_nms_topk = tuple(pre_nms_topk)
        self.post_nms_topk = tuple(post_nms_topk)
        self.nms_thresh = nms_thresh
        self.min_box_size = min_box_size

    @torch.no_grad()
    def __call__(
        self,
        anchors: Sequence[Tensor],
        logits: Sequence[Tensor],
        deltas: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
        *,
        transform: Box2BoxTransform,
        convention: ContinuousBoxes,
        training: bool,
    ) -> list[Instances]:
        """Select the proposals of each image; no gradients.

        Args:
            anchors: L tensors (R_l, 4).
            logits: L tensors (N, R_l).
            deltas: L tensors (N, R_l, 4).
            image_sizes: of the N images.
            transform: decodes the deltas.
            convention: clips boxes.
            training: which of the two limits holds.

        Returns:
            N items with ``proposal_boxes`` and ``objectness_logits``, best first. Anchors with a non-finite
            score or box are left out.
        """
        boxes, scores, levels = [], [], []
        for level, (level_anchors, level_logits, level_deltas) in enumerate(
            zip(anchors, logits, deltas, strict=True)
        ):
            # The logits have the order of their sigmoids, and fewer ties.
            count = min(self.pre_nms_topk[not training], level_logits.shape[1])
            best, index = full_precision(level_logits).topk(count, dim=1)
            best_deltas = level_deltas.gather(1, index[..., None].expand(-1, -1, 4)).flatten(0, 1)
            decoded = transform.apply_deltas(best_deltas, level_anchors[index.flatten()])
            boxes.append(decoded.view(*index.shape, 4))
            scores.append(best)
            levels.append(torch.full((count,), level, dtype=torch.int64, device=best.device))
        levels = torch.cat(levels)
        proposals = []
        for b, s, size in zip(torch.cat(boxes, dim=1), torch.cat(scores, dim=1), image_sizes, strict=True):
            b = convention.clip(b, size)
            valid = torch.isfinite(b).all(dim=1) & torch.isfinite(s)
            valid &= (b[:, 2:] - b[:, :2] > self.min_box_size).all(dim=1)
            b, s = b[valid], s[valid]
            keep = batched_nms(b.float(), s.float(), levels[valid], self.nms_thresh)
            keep = keep[: self.post_nms_topk[not training]]
            proposals.append(Instances(size, proposal_boxes=Boxes(b[keep]), objectness_logits=s[keep]))
        return proposals


@PROPOSAL_GENERATOR_REGISTRY.register()
class PublishedRPN(RPN):
    """Detectron2's ``RPN`` whose labels, normalizer and proposals are parts that are passed in.

    Args:
        in_features: names of the maps to work on, finest first.
        head: gives objectness logits and deltas, such as ``StandardRPNHead``.
        anchor_generator: makes the anchors; has ``strides``, one for each of ``in_features``.
        box2box_transform: codes boxes as deltas.
        anchor_labeler: labels the anchors of an image.
        proposal_rule: selects the proposals.
        loss_normalizer: returns what both losses are divided by for the labels (N, R) of a batch.
        batch_size_per_image: anchors sampled in each image; fewer if there are not enough.
        positive_fraction: largest share of positives in the sample.
        smooth_l1_beta: where the box loss turns from quadratic to linear, in deltas; 0 is L1.
        loss_weight: factor of both losses, or one for each name.

    Attributes:
        box_convention: clips boxes and compares them with the border of the image; set by the model.
    """

    def __init__(
        self,
        *,
        in_features: Sequence[str],
        head: nn.Module,
        anchor_generator: nn.Module,
        box2box_transform: Box2BoxTransform,
        anchor_labeler: AnchorLabeler,
        proposal_rule: ProposalRule,
        loss_normalizer: SampledAnchors,
        batch_size_per_image: int = 256,
        positive_fraction: float = 0.5,
        smooth_l1_beta: float = 1 / 9,
        loss_weight: float | Mapping[str, float] = 1.0,
    ):
        # Detectron2's constructor wants a matcher and the limits of the proposals, but only reads them in
        # methods that are overridden here.
        super().__init__(
            in_features=list(in_features),
            head=head,
            anchor_generator=anchor_generator,
            anchor_matcher=anchor_labeler,
            box2box_transform=box2box_transform,
            batch_size_per_image=batch_size_per_image,
            positive_fraction=positive_fraction,
            pre_nms_topk=proposal_rule.pre_nms_topk,
            post_nms_topk=proposal_rule.post_nms_topk,
            nms_thresh=proposal_rule.nms_thresh,
            loss_weight=dict(loss_weight) if isinstance(loss_weight, Mapping) else float(loss_weight),
            smooth_l1_beta=smooth_l1_beta,
        )
        self.anchor_labeler = anchor_labeler
        self.proposal_rule = proposal_rule
        self.loss_normalizer = loss_normalizer
        self.box_convention = ContinuousBoxes()

    @torch.no_grad()
    def label_and_sample_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[Tensor, Tensor]:
        """Label the anchors of each image and draw the sample to train on.

        Args:
            anchors: those of the L levels.
            gt_instances: N items with ``gt_boxes``.

        Returns:
            labels (N, R) int64: 1 positive, 0 negative, -1 not used; and the ground-truth boxes (N, R, 4) of
            the positive anchors, zero elsewhere.
        """
        levels, strides = [level.tensor for level in anchors], self.anchor_generator.strides
        num_anchors = sum(len(level) for level in levels)
        labels = torch.full((len(gt_instances), num_anchors), -1, dtype=torch.int64, device=levels[0].device)
        boxes = levels[0].new_zeros(len(gt_instances), num_anchors, 4)
        for i, target in enumerate(gt_instances):
            truth = target.gt_boxes.tensor
            label, matched = self.anchor_labeler(
                levels, strides, truth, target.image_size, self.box_convention
            )
            chosen = subsample_labels(label, self.batch_size_per_image, self.positive_fraction, 0)
            labels[i, chosen[0]], labels[i, chosen[1]] = 1, 0
            positive = labels[i] == 1
            boxes[i][positive] = truth[matched[positive]].to(boxes.dtype)
        return labels, boxes

    def losses(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[Tensor],
        gt_labels: Tensor,
        pred_anchor_deltas: list[Tensor],
        gt_boxes: Tensor,
    ) -> dict[str, Tensor]:
        """Return the weighted losses, both divided by the normalizer.

        Args:
            anchors: those of the L levels.
            pred_objectness_logits: L tensors (N, R_l).
            gt_labels, gt_boxes: see :meth:`label_and_sample_anchors`.
            pred_anchor_deltas: L tensors (N, R_l, 4).

        Returns:
            ``loss_rpn_cls``: binary cross-entropy of the sampled anchors. ``loss_rpn_loc``: smooth L1 of the
            positive ones. Without samples both are zero and depend on all parameters.
        """
        boxes = torch.cat([level.tensor for level in anchors])
        sampled, positive = gt_labels >= 0, gt_labels == 1
        logits = full_precision(torch.cat(pred_objectness_logits, dim=1)[sampled])
        deltas = torch.cat(pred_anchor_deltas, dim=1)[positive]
        positive_anchors = boxes.expand(len(gt_labels), -1, -1)[positive]
        gt_deltas = self.box2box_transform.get_deltas(positive_anchors, gt_boxes[positive])
        objectness = gt_labels[sampled].to(logits.dtype)
        sums = {
            "loss_rpn_cls": F.binary_cross_entropy_with_logits(logits, objectness, reduction="sum"),
            "loss_rpn_loc": smooth_l1_loss(deltas, gt_deltas, beta=self.smooth_l1_beta, reduction="sum"),
        }
        count = self.loss_normalizer(gt_labels)
        return {name: value * self.loss_weight.get(name, 1.0) / count for name, value in sums.items()}

    def predict_proposals(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        image_sizes: list[tuple[int, int]],
    ) -> list[Instances]:
        """Return the proposals of each image, see :class:`ProposalRule`."""
        return self.proposal_rule(
            [level.tensor for level in anchors],
            pred_objectness_logits,
            pred_anchor_deltas,
            image_sizes,
            transform=self.box2box_transform,
            convention=self.box_convention,
            training=self.training,
        )
