"""RoI heads as a list of stages: Faster R-CNN, Cascade R-CNN and their relatives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from htd.errors import UserError
from htd.layers import ContinuousBoxes, FeatureTable
from htd.modeling.cascade.ground_truth import GroundTruth
from htd.modeling.cascade.heads import Classified
from htd.modeling.cascade.prediction import RoIPredictions
from htd.modeling.cascade.rois import LevelRule, RoIContext, RoIs
from htd.modeling.cascade.stage import CascadeStage
from htd.modeling.metrics import PERIOD, storage_every, write


class ContextParts(nn.ModuleDict):
    """Parts by name, given as keywords, because a lazy config builds nothing inside a plain dict."""

    def __init__(self, **parts: nn.Module):
        super().__init__(parts)


@ROI_HEADS_REGISTRY.register()
class StagedROIHeads(nn.Module):
    """Runs stages one after the other, each on the boxes that the one before has refined.

    Paper: Cascade R-CNN, section 4. One stage gives Faster R-CNN. Whether a stage draws its
    samples anew is its sampler's rule; how the stages' scores are joined is the fusion's.

    Args:
        in_features: names of the maps that RoI features are pooled from, finest first.
        strides: pixels of the resized input a cell of each of these maps.
        num_classes: K; not read here, stated once for the parts to refer to.
        context: parts run once a batch. Each is called with (features, ground truth or None) and returns
            what the parts of the stages find under its name, and its losses.
        level_rule: assigns boxes to ``in_features``.
        stages: the stages in order.
        fusion: joins the stages' logits to scores, see :mod:`htd.modeling.cascade.prediction`.
        selection: turns predictions into detections.
        mask_branch: gives the detections masks, see :mod:`htd.modeling.cascade.masks`.
        convention: clips and rescales boxes, see :mod:`htd.layers.boxes`; continuous if None.

    Raises:
        UserError: there is no stage, or there are more mask heads than stages.
    """

    def __init__(
        self,
        *,
        in_features: Sequence[str],
        strides: Sequence[int],
        num_classes: int,
        context: ContextParts,
        level_rule: LevelRule,
        stages: Sequence[CascadeStage],
        fusion,
        selection,
        mask_branch: nn.Module,
        convention: ContinuousBoxes | None = None,
    ):
        super().__init__()
        self.in_features = list(in_features)
        self.strides = list(strides)
        self.num_classes = num_classes
        self.context = context
        self.level_rule = level_rule
        self.stages = nn.ModuleList(stages)
        self.fusion = fusion
        self.selection = selection
        self.mask_branch = mask_branch
        self.convention = convention or ContinuousBoxes()
        if not len(self.stages):
            raise UserError("roi_heads.stages is empty; give one stage at least")
        if mask_branch.num_heads > len(self.stages):
            raise UserError(
                f"the mask branch has {mask_branch.num_heads} heads for {len(self.stages)} stages; leave out "
                "heads (mask_branch.heads, loss_weights and flow.num_heads), or add stages"
            )

    def forward(
        self,
        images: ImageList,
        features: Mapping[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
        sem_seg: Tensor | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Train on, or detect in, a batch of N images.

        Args:
            images: only ``image_sizes`` is read: (height, width) without padding.
            features: maps (N, C, H, W) by name.
            proposals: N items with ``proposal_boxes``, pixels of the resized input.
            targets: N items with ``gt_boxes``, ``gt_classes`` and, for a mask branch, ``gt_masks``; needed
                when training.
            sem_seg: (N, H, W) int64 of the padded input; needed when training a semantic branch.

        Returns:
            When training the proposals and the losses: those of the stages (``loss_cls``,
            ``loss_box_reg``) and, of a mask branch, ``loss_mask`` (with ``_stage<k>`` if there are several
            stages), and those of the context parts. Else N items with ``pred_boxes``, ``scores`` and
            ``pred_classes`` in the resized input and, of a mask branch, ``pred_masks`` (P, 1, M, M),
            probabilities in the frame of each box; and no losses.
        """
        if not self.training:
            context, _ = self.make_context(images.image_sizes, features)
            detections = [self.selection(p) for p in self.predict(context, proposals)]
            self.mask_branch.add_masks(context, detections)
            return detections, {}
        truth = GroundTruth(targets, sem_seg)
        context, losses = self.make_context(images.image_sizes, features, truth)
        losses.update(self._stage_losses(context, proposals, truth))
        return proposals, losses

    def forward_with_given_boxes(
        self, features: Mapping[str, Tensor], instances: list[Instances]
    ) -> list[Instances]:
        """Add masks to N items that have ``pred_boxes`` and ``pred_classes`` in the resized input.

        Nothing is added without a mask branch. Returns the items. Detectron2's test-time augmentation
        calls this.
        """
        context, _ = self.make_context([x.image_size for x in instances], features)
        self.mask_branch.add_masks(context, instances)
        return instances

    def make_context(
        self,
        image_sizes: Sequence[tuple[int, int]],
        features: Mapping[str, Tensor],
        truth: GroundTruth | None = None,
    ) -> tuple[RoIContext, dict[str, Tensor]]:
        """Compute what the stages share from maps (N, C, H_l, W_l), and its losses if there is truth."""
        shared, losses = {}, {}
        for name, part in self.context.items():
            shared[name], part_losses = part(features, truth)
            losses.update(part_losses)
        table = FeatureTable([features[name] for name in self.in_features], self.strides)
        return RoIContext(table, image_sizes, self.level_rule, shared, self.convention), losses

    def _stage_losses(
        self, context: RoIContext, proposals: list[Instances], truth: GroundTruth
    ) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        previous: Classified | None = None
        last = len(self.stages) - 1
        first_with_mask = len(self.stages) - self.mask_branch.num_heads
        for k, stage in enumerate(self.stages):
            samples = stage.sampler(proposals, truth.instances)
            rois = context.rois([s.proposal_boxes.tensor for s in samples])
            classified = stage.head.classify(context, rois, previous)
            has_mask = k >= first_with_mask
            refines = k < last or (has_mask and self.mask_branch.roi_rule.needs_refined)
            rows = torch.arange(len(rois), device=rois.boxes.device)
            if not refines:
                # Nobody reads the refined boxes: only those with a target are regressed.
                rows = rows[torch.cat([s.gt_classes for s in samples]) < stage.num_classes]
            deltas = stage.head.regress(context, rois, classified, rows)
            of_stage = stage.losses(classified, deltas, rows, samples)
            proposals = self._refined(context, stage, samples, rois, classified, deltas) if refines else None
            if has_mask:
                head = k - first_with_mask
                of_stage |= self.mask_branch.losses(head, context, stage, samples, proposals, truth)
            suffix = f"_stage{k}" if last else ""
            losses |= {name + suffix: value for name, value in of_stage.items()}
            if (storage := storage_every(PERIOD)) is not None:
                write(storage, stage.metrics(classified, samples), suffix)
            previous = classified
        return losses

    @staticmethod
    def _refined(
        context: RoIContext,
        stage: CascadeStage,
        samples: list[Instances],
        rois: RoIs,
        classified: Classified,
        deltas: Tensor,
    ) -> list[Instances]:
        classes = torch.cat([s.gt_classes for s in samples])
        refined = stage.refine(context, rois, classified, deltas, classes)
        return [
            Instances(s.image_size, proposal_boxes=Boxes(b), is_gt=s.is_gt)
            for s, b in zip(samples, refined, strict=True)
        ]

    def predict(
        self, context: RoIContext, proposals: list[Instances], *, every_roi: bool = False
    ) -> list[RoIPredictions]:
        """Return the predictions of each image in the frame of the resized input.

        Only RoIs that the selection may keep are in it: the last regression is not run for others.

        Args:
            context: of the batch.
            proposals: one ``Instances`` an image with ``proposal_boxes``.
            every_roi: keep all RoIs, in the order of the proposals.
        """
        boxes = [p.proposal_boxes.tensor for p in proposals]
        logits: list[Tensor] = []
        previous: Classified | None = None
        for stage in self.stages[:-1]:
            rois = context.rois(boxes)
            previous = stage.head.classify(context, rois, previous)
            logits.append(previous.logits)
            rows = torch.arange(len(rois), device=rois.boxes.device)
            deltas = stage.head.regress(context, rois, previous, rows)
            boxes = stage.refine(context, rois, previous, deltas)
        return self._predict_last(context, boxes, logits, previous, every_roi)

    def _predict_last(
        self,
        context: RoIContext,
        boxes: list[Tensor],
        logits: list[Tensor],
        previous: Classified | None,
        every_roi: bool,
    ) -> list[RoIPredictions]:
        stage = self.stages[-1]
        rois = context.rois(boxes)
        classified = stage.head.classify(context, rois, previous)
        scores = self.fusion([*logits, classified.logits])
        rows = (self.selection.may_keep(scores) | every_roi).nonzero().squeeze(1)
        deltas = stage.head.regress(context, rois, classified, rows)
        decoded = stage.decode(deltas, classified.boxes[rows])
        predictions = []
        for i, size in enumerate(context.image_sizes):
            of_image = rois.image_index[rows] == i
            clipped = self.convention.clip(decoded[of_image].unflatten(1, (-1, 4)), size).flatten(1)
            found = RoIPredictions(clipped, scores[rows][of_image], tuple(size), self.convention)
            predictions.append(found)
        return predictions
