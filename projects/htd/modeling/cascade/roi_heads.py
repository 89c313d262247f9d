"""RoI heads as a list of stages: Faster R-CNN, Cascade R-CNN and their relatives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from htd.layers import FeatureTable, clip_boxes
from htd.modeling.cascade.heads import Classified
from htd.modeling.cascade.prediction import RoIPredictions
from htd.modeling.cascade.rois import LevelRule, RoIContext
from htd.modeling.cascade.stage import CascadeStage


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
        context: parts run once a batch. Each is called with (features, targets) and returns a tensor,
            found by the parts of the stages under its name, and its losses.
        level_rule: assigns boxes to ``in_features``.
        stages: the stages in order.
        fusion: joins the stages' logits to scores, see :mod:`htd.modeling.cascade.prediction`.
        selection: turns predictions into detections.
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

    def forward(
        self,
        images: ImageList,
        features: Mapping[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Train on, or detect in, a batch of N images.

        Args:
            images: only ``image_sizes`` is read: (height, width) without padding.
            features: maps (N, C, H, W) by name.
            proposals: N items with ``proposal_boxes``, pixels of the resized input.
            targets: N items with ``gt_boxes`` and ``gt_classes``; needed when training.

        Returns:
            When training the proposals and the losses: ``loss_cls`` and ``loss_box_reg`` (with
            ``_stage<k>`` if there are several stages) and those of the context parts. Else N items
            with ``pred_boxes``, ``scores`` and ``pred_classes`` in the resized input, and no losses.
        """
        if not self.training:
            return [self.selection(p) for p in self.predict(images, features, proposals)], {}
        context, losses = self.make_context(images, features, targets)
        losses.update(self._stage_losses(context, proposals, targets))
        return proposals, losses

    def make_context(
        self, images: ImageList, features: Mapping[str, Tensor], targets: list[Instances] | None = None
    ) -> tuple[RoIContext, dict[str, Tensor]]:
        """Compute what the stages share, and its losses if there are targets."""
        shared, losses = {}, {}
        for name, part in self.context.items():
            shared[name], part_losses = part(features, targets)
            losses.update(part_losses)
        table = FeatureTable.from_maps([features[name] for name in self.in_features], self.strides)
        return RoIContext(table, images.image_sizes, self.level_rule, shared), losses

    def _stage_losses(
        self, context: RoIContext, proposals: list[Instances], targets: list[Instances]
    ) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        previous: Classified | None = None
        last = len(self.stages) - 1
        for k, stage in enumerate(self.stages):
            samples = stage.sampler(proposals, targets)
            boxes = [s.proposal_boxes.tensor for s in samples]
            rois = context.rois(boxes)
            classified = stage.head.classify(context, rois, previous)
            if k < last:
                rows = torch.arange(len(rois), device=rois.boxes.device)
            else:
                # Nobody refines the last stage's boxes: only those with a target are regressed.
                rows = torch.cat([s.gt_classes for s in samples]) < stage.num_classes
                rows = rows.nonzero().squeeze(1)
            deltas = stage.head.regress(context, rois, classified, rows)
            for name, value in stage.losses(classified.logits, deltas, rows, samples).items():
                losses[f"{name}_stage{k}" if last else name] = value
            if k < last:
                refined = stage.refine(classified.logits, deltas, boxes, context.image_sizes)
                proposals = [
                    Instances(s.image_size, proposal_boxes=Boxes(b), is_gt=s.is_gt)
                    for s, b in zip(samples, refined, strict=True)
                ]
            previous = classified
        return losses

    def predict(
        self, images: ImageList, features: Mapping[str, Tensor], proposals: list[Instances]
    ) -> list[RoIPredictions]:
        """Return the predictions of each image in the frame of the resized input.

        Only RoIs that the selection may keep are in it: the last regression is not run for others.
        """
        context, _ = self.make_context(images, features)
        boxes = [p.proposal_boxes.tensor for p in proposals]
        logits: list[Tensor] = []
        previous: Classified | None = None
        for stage in self.stages[:-1]:
            rois = context.rois(boxes)
            previous = stage.head.classify(context, rois, previous)
            logits.append(previous.logits)
            rows = torch.arange(len(rois), device=rois.boxes.device)
            deltas = stage.head.regress(context, rois, previous, rows)
            boxes = stage.refine(previous.logits, deltas, boxes, context.image_sizes)
        return self._predict_last(context, boxes, logits, previous)

    def _predict_last(
        self, context: RoIContext, boxes: list[Tensor], logits: list[Tensor], previous: Classified | None
    ) -> list[RoIPredictions]:
        stage = self.stages[-1]
        rois = context.rois(boxes)
        classified = stage.head.classify(context, rois, previous)
        scores = self.fusion([*logits, classified.logits])
        rows = self.selection.may_keep(scores).nonzero().squeeze(1)
        deltas = stage.head.regress(context, rois, classified, rows)
        decoded = stage.decode(deltas, rois.boxes[rows])
        predictions = []
        for i, size in enumerate(context.image_sizes):
            of_image = rois.image_index[rows] == i
            clipped = clip_boxes(decoded[of_image].unflatten(1, (-1, 4)), size).flatten(1)
            predictions.append(RoIPredictions(clipped, scores[rows][of_image], tuple(size)))
        return predictions
