"""Region proposal network whose rules are parts.

Symbols: N images, L levels, R_l anchors of level l, R of all levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import Boxes, Instances
from fvcore.nn import smooth_l1_loss
from torch import Tensor, nn

from htd.layers.sampling import full_precision
from htd.modeling.rpn.labeling import AnchorLabeler
from htd.modeling.rpn.proposals import ProposalRule


@PROPOSAL_GENERATOR_REGISTRY.register()
class PublishedRPN(RPN):
    """Detectron2's ``RPN`` with labelling, normalisation and proposal selection passed in.

    Paper: Faster R-CNN, section 3.1.

    Args:
        in_features: names of the maps to work on, finest first.
        head: gives objectness logits and deltas, such as ``StandardRPNHead``.
        anchor_generator: makes the anchors; has ``strides``, one for each of ``in_features``.
        box2box_transform: codes boxes as deltas.
        anchor_labeler: see :mod:`htd.modeling.rpn.labeling`.
        proposal_rule: see :mod:`htd.modeling.rpn.proposals`.
        loss_normalizer: see :mod:`htd.modeling.rpn.normalizer`.
        batch_size_per_image: anchors sampled in each image; fewer if there are not enough.
        positive_fraction: largest share of positives in the sample.
        smooth_l1_beta: where the box loss turns from quadratic to linear, in deltas; 0 is L1.
        loss_weight: factor of both losses, or one for each name.
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
        loss_normalizer,
        batch_size_per_image: int = 256,
        positive_fraction: float = 0.5,
        smooth_l1_beta: float = 1 / 9,
        loss_weight: float | Mapping[str, float] = 1.0,
    ):
        # The matcher and the limits of the proposals are copies that Detectron2's constructor wants: what
        # would read them there is overridden here, and the parts are read instead.
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

    @torch.no_grad()
    def label_and_sample_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[Tensor, Tensor]:
        """Label the anchors of each image and draw the sample to train on.

        Args:
            anchors: those of the L levels.
            gt_instances: N items with ``gt_boxes``.

        Returns:
            labels (N, R) int64: 1 positive, 0 negative, -1 not used; and the ground-truth boxes
            (N, R, 4) of the positive anchors, zero elsewhere.
        """
        levels, strides = [level.tensor for level in anchors], self.anchor_generator.strides
        every = torch.cat(levels)
        labels = torch.full((len(gt_instances), len(every)), -1, dtype=torch.int64, device=every.device)
        boxes = every.new_zeros(len(gt_instances), len(every), 4)
        for i, target in enumerate(gt_instances):
            truth = target.gt_boxes.tensor
            label, matched = self.anchor_labeler(levels, strides, truth, target.image_size)
            labels[i] = self._subsample_labels(label)
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
        """Return the weighted losses, both divided by the normaliser.

        Args:
            anchors: those of the L levels.
            pred_objectness_logits: L tensors (N, R_l).
            gt_labels, gt_boxes: see :meth:`label_and_sample_anchors`.
            pred_anchor_deltas: L tensors (N, R_l, 4).

        Returns:
            ``loss_rpn_cls``: binary cross-entropy of the sampled anchors. ``loss_rpn_loc``: smooth
            L1 of the positive ones. Without samples both are zero and depend on all parameters.
        """
        every = torch.cat([level.tensor for level in anchors])
        sampled, positive = gt_labels >= 0, gt_labels == 1
        logits = full_precision(torch.cat(pred_objectness_logits, dim=1)[sampled])
        deltas = torch.cat(pred_anchor_deltas, dim=1)[positive]
        source = every.expand(len(gt_labels), -1, -1)[positive]
        wanted = self.box2box_transform.get_deltas(source, gt_boxes[positive])
        objects = gt_labels[sampled].to(logits.dtype)
        sums = {
            "loss_rpn_cls": F.binary_cross_entropy_with_logits(logits, objects, reduction="sum"),
            "loss_rpn_loc": smooth_l1_loss(deltas, wanted, beta=self.smooth_l1_beta, reduction="sum"),
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
        """Return the proposals of each image; see :class:`htd.modeling.rpn.proposals.ProposalRule`."""
        return self.proposal_rule(
            [level.tensor for level in anchors],
            pred_objectness_logits,
            pred_anchor_deltas,
            image_sizes,
            transform=self.box2box_transform,
            training=self.training,
        )
