"""RoI heads as a list of stages: Faster R-CNN, Cascade R-CNN and their relatives.

Symbols: N images of a batch, R RoIs, P detections, C channels. Boxes are XYXY in pixels of the resized input
unless another frame is named; sizes are (height, width).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from htd.layers import ContinuousBoxes, FeatureTable
from htd.modeling.cascade.postprocessing import DetectionPostProcessing, RoIPredictions
from htd.modeling.cascade.rois import GroundTruth, LevelRule, RoIContext
from htd.modeling.cascade.stage import CascadeStage
from htd.modeling.metrics import PERIOD, storage_every, write


class ContextParts(nn.Module):
    """The parts that run once for a batch, before any stage.

    Args:
        image_vector: called with (features, ground truth or None), returns a vector (N, C) for each image and
            a dict of losses.
        semantic: called alike, returns the features of a semantic branch as a table of one map, and losses.
    """

    def __init__(self, *, image_vector: nn.Module | None = None, semantic: nn.Module | None = None):
        super().__init__()
        self.global_vector = image_vector  # the name that checkpoints have for it
        self.semantic = semantic


@ROI_HEADS_REGISTRY.register()
class StagedROIHeads(nn.Module):
    """Runs stages one after the other, each on the boxes that the one before has refined.

    Paper: Cascade R-CNN, section 4, https://arxiv.org/abs/1712.00726. One stage gives Faster R-CNN. Whether a
    stage draws a new sample is its sampler's rule; how the stages' scores are joined is the fusion's.

    Args:
        in_features: names of the maps that RoI features are pooled from, finest first.
        strides: pixels of the resized input per cell of each of these maps.
        num_classes: K; not read here, stated once for the parts to refer to.
        context: what runs once per batch.
        level_rule: assigns boxes to ``in_features``.
        stages: the stages in order.
        fusion: joins the stages' logits to scores, see :mod:`htd.modeling.cascade.postprocessing`.
        postprocessing: turns predictions into detections.
        mask_branch: gives the detections masks, see :mod:`htd.modeling.cascade.masks`.

    Attributes:
        box_convention: what the corners of boxes mean, see :mod:`htd.layers.boxes`; set by the
            meta-architecture.
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
        postprocessing: DetectionPostProcessing,
        mask_branch: nn.Module,
    ):
        super().__init__()
        self.in_features = list(in_features)
        self.strides = list(strides)
        self.num_classes = num_classes
        self.context = context
        self.level_rule = level_rule
        self.stages = nn.ModuleList(stages)
        self.fusion = fusion
        self.postprocessing = postprocessing
        self.mask_branch = mask_branch
        self.box_convention = ContinuousBoxes()
        if not len(self.stages):
            raise ValueError("stages is empty; give at least one stage")
        if mask_branch.num_heads > len(self.stages):
            raise ValueError(
                f"mask_branch has {mask_branch.num_heads} heads for {len(self.stages)} stages; at most one "
                "per stage is possible"
            )

    def forward(
        self,
        images: ImageList,
        features: Mapping[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
        sem_seg: Tensor | None = None,
        *,
        output_sizes: Sequence[tuple[float, float]] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Train on, or detect in, a batch of N images.

        Args:
            images: only ``image_sizes`` is read: (height, width) without padding.
            features: maps (N, C, H, W) by name.
            proposals: N items with ``proposal_boxes``.
            targets: N items with ``gt_boxes``, ``gt_classes`` and, for a mask branch, ``gt_masks``; needed
                when training.
            sem_seg: (N, H, W) int64 of the padded input; needed when training a semantic branch.
            output_sizes: frames to bring the detections of the N images to; None leaves them in the resized
                input.

        Returns:
            When training the proposals and the losses: those of the stages (``loss_cls``,
            ``loss_box_reg``) and, of a mask branch, ``loss_mask`` (with ``_stage<k>`` if there are several
            stages), and those of the context parts. Else what :meth:`forward_with_given_boxes` returns, with
            ``pred_boxes``, ``scores`` and ``pred_classes``, and no losses.
        """
        if self.training:
            truth = GroundTruth(targets, sem_seg)
            context, losses = self.make_context(images.image_sizes, features, truth)
            return proposals, losses | self._stage_losses(context, proposals, truth)
        context, _ = self.make_context(images.image_sizes, features)
        detections = self.select(self.predict(context, proposals), output_sizes)
        return self.add_masks(context, detections, output_sizes), {}

    def forward_with_given_boxes(
        self,
        features: Mapping[str, Tensor],
        instances: list[Instances],
        *,
        output_sizes: Sequence[tuple[float, float]] | None = None,
    ) -> list[Instances]:
        """Add masks to N items that have ``pred_boxes`` and ``pred_classes``.

        Returns:
            The items in the frames of ``output_sizes`` and, of a mask branch, with ``pred_masks``: (P,
            height, width) bool in that frame, or without sizes (P, 1, M, M), probabilities in the frame of
            each box.
        """
        context, _ = self.make_context([x.image_size for x in instances], features)
        if output_sizes is not None:
            rescale = self.box_convention.rescale
            instances = [
                Instances(
                    size,
                    **x.get_fields()
                    | {"pred_boxes": Boxes(rescale(x.pred_boxes.tensor, x.image_size, size))},
                )
                for x, size in zip(instances, output_sizes, strict=True)
            ]
        return self.add_masks(context, instances, output_sizes)

    def make_context(
        self,
        image_sizes: Sequence[tuple[int, int]],
        features: Mapping[str, Tensor],
        truth: GroundTruth | None = None,
    ) -> tuple[RoIContext, dict[str, Tensor]]:
        """Compute what the stages share from maps (N, C, H_l, W_l), and its losses if there is truth."""
        image_vector, semantic_features, losses = None, None, {}
        if self.context.global_vector is not None:
            image_vector, losses = self.context.global_vector(features, truth)
        if self.context.semantic is not None:
            semantic_features, semantic_losses = self.context.semantic(features, truth)
            losses = losses | semantic_losses
        table = FeatureTable([features[name] for name in self.in_features], self.strides)
        context = RoIContext(
            table, image_sizes, self.level_rule, image_vector, semantic_features, self.box_convention
        )
        return context, losses

    def _stage_losses(
        self, context: RoIContext, proposals: list[Instances], truth: GroundTruth
    ) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        classifier: nn.Linear | None = None
        last = len(self.stages) - 1
        first_with_mask = len(self.stages) - self.mask_branch.num_heads
        for k, stage in enumerate(self.stages):
            samples = stage.sampler(proposals, truth.instances)
            classes = torch.cat([s.gt_classes for s in samples])
            rois = context.rois([s.proposal_boxes.tensor for s in samples])
            read = (classifier,) if stage.head.reads_classifier else ()
            output = stage.head.classify(context, rois, *read)
            classifier = output.classifier

            has_mask = k >= first_with_mask
            refines = k < last or (has_mask and self.mask_branch.roi_rule.needs_refined)
            rows = torch.arange(len(classes), device=classes.device)
            if not refines:  # only RoIs with a box target have to be regressed
                rows = rows[classes < stage.num_classes]
            deltas = stage.head.regress(context, rois, output, rows)
            stage_losses = stage.losses(stage, output, deltas, rows, samples)
            if refines:
                boxes = stage.refine(context, rois, output, deltas, classes)
                proposals = [
                    Instances(s.image_size, proposal_boxes=Boxes(b), is_gt=s.is_gt)
                    for s, b in zip(samples, boxes, strict=True)
                ]
            if has_mask:
                head = k - first_with_mask
                stage_losses |= self.mask_branch.losses(head, context, stage, samples, proposals, truth)
            suffix = f"_stage{k}" if last else ""
            losses |= {name + suffix: value for name, value in stage_losses.items()}
            if (storage := storage_every(PERIOD)) is not None:
                write(storage, stage.losses.metrics(output, samples), suffix)
        return losses

    def predict(
        self, context: RoIContext, proposals: list[Instances], *, every_roi: bool = False
    ) -> list[RoIPredictions]:
        """Return the predictions of each image in the frame of the resized input.

        Only RoIs that the post-processing may keep are in it: the last regression is not run for others.

        Args:
            context: of the batch.
            proposals: N items with ``proposal_boxes``.
            every_roi: keep all RoIs, in the order of the proposals.
        """
        boxes = [p.proposal_boxes.tensor for p in proposals]
        logits: list[Tensor] = []
        classifier: nn.Linear | None = None
        for k, stage in enumerate(self.stages):
            rois = context.rois(boxes)
            read = (classifier,) if stage.head.reads_classifier else ()
            output = stage.head.classify(context, rois, *read)
            classifier = output.classifier
            logits.append(output.logits)
            if k < len(self.stages) - 1:
                rows = torch.arange(len(rois.boxes), device=rois.boxes.device)
                deltas = stage.head.regress(context, rois, output, rows)
                boxes = stage.refine(context, rois, output, deltas)

        scores = self.fusion(logits)
        rows = (self.postprocessing.may_keep(scores) | every_roi).nonzero()[:, 0]
        deltas = stage.head.regress(context, rois, output, rows)
        decoded = stage.decode(deltas, output.boxes[rows])
        predictions = []
        for i, size in enumerate(context.image_sizes):
            in_image = rois.image_index[rows] == i
            clipped = self.box_convention.clip(decoded[in_image].unflatten(1, (-1, 4)), size).flatten(1)
            predictions.append(
                RoIPredictions(clipped, scores[rows][in_image], tuple(size), self.box_convention)
            )
        return predictions

    def select(
        self,
        predictions: Sequence[RoIPredictions],
        output_sizes: Sequence[tuple[float, float]] | None = None,
    ) -> list[Instances]:
        """Bring predictions to the frames of ``output_sizes``, if given, and choose the detections there.

        Returns:
            ``pred_boxes``, ``scores`` and ``pred_classes`` of each image, best first.
        """
        if output_sizes is not None:
            predictions = [p.resized(*size) for p, size in zip(predictions, output_sizes, strict=True)]
        return [self.postprocessing(p) for p in predictions]

    def add_masks(
        self,
        context: RoIContext,
        detections: list[Instances],
        output_sizes: Sequence[tuple[float, float]] | None = None,
    ) -> list[Instances]:
        """Add masks as :meth:`forward_with_given_boxes` does to detections in the frames of
        ``output_sizes``."""
        self.mask_branch.add_masks(context, detections)
        return detections if output_sizes is None else [self.mask_branch.paste(x) for x in detections]
