"""The mask branch that hangs on the stages of a cascade.

Symbols: N images, P RoIs of the batch, C channels, S side of the pooled map; a mask has 2S x 2S cells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from detectron2.layers import paste_masks_in_image
from detectron2.structures import Instances
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from htd.modeling.cascade.mask_targets import mask_targets
from htd.modeling.cascade.rois import GroundTruth, RoIContext
from htd.modeling.cascade.stage import CascadeStage


class NoMasks(nn.Module):
    """Stands for the mask branch of a detector that has none.

    Attributes:
        num_heads: of the last stages as many have a mask head.
    """

    num_heads = 0

    def add_masks(self, context: RoIContext, detections: list[Instances]) -> None:
        """Leave the detections without masks."""

    def paste(self, detections: Instances) -> Instances:
        """Return the detections as they are."""
        return detections


class MaskBranch(nn.Module):
    """One mask head for each of the last stages; at test the mean of their probabilities.

    Paper: Hybrid Task Cascade, section 3.1; with one head Mask R-CNN, section 3.

    Args:
        features: gives RoI features (P, C, S, S), see :mod:`htd.modeling.cascade.rois`.
        heads: :class:`ConvMaskHead`, in the order of the stages.
        flow: how the heads depend on each other, :class:`IndependentHeads` or HTC's information flow.
        roi_rule: chooses the RoIs that masks are learnt from, see :mod:`htd.modeling.cascade.mask_rois`.
        loss_weights: factor of each head's loss.
        threshold: probability from which on pixels belong to the object, see ``paste_masks``.
        targets: cuts the masks to learn out of the ground truth's, see :func:`mask_targets`.
        paste_masks: turns masks in the frames of boxes into bitmaps, as Detectron2's function.
        checkpoint_heads: compute the heads' activations again in the backward pass instead of keeping
            them; the same gradients for less memory and more time.

    Raises:
        ValueError: ``loss_weights`` or ``flow`` are for another number of heads.
    """

    def __init__(
        self,
        *,
        features: nn.Module,
        heads: Sequence[nn.Module],
        flow: nn.Module,
        roi_rule,
        loss_weights: Sequence[float],
        threshold: float = 0.5,
        targets: Callable = mask_targets,
        paste_masks: Callable = paste_masks_in_image,
        checkpoint_heads: bool = False,
    ):
        super().__init__()
        self.features = features
        self.heads = nn.ModuleList(heads)
        self.flow = flow
        self.roi_rule = roi_rule
        self.loss_weights = list(loss_weights)
        self.threshold = threshold
        self.targets = targets
        self.paste_masks = paste_masks
        self.checkpoint_heads = checkpoint_heads
        if len(self.loss_weights) != self.num_heads:
            raise ValueError(
                f"the mask branch has {self.num_heads} heads and {len(self.loss_weights)} loss_weights; "
                "give one for each"
            )
        flow.check(self.num_heads)

    @property
    def num_heads(self) -> int:
        """Number of stages that have a mask head."""
        return len(self.heads)

    def losses(
        self,
        head: int,
        context: RoIContext,
        stage: CascadeStage,
        samples: list[Instances],
        refined: list[Instances] | None,
        truth: GroundTruth,
    ) -> dict[str, Tensor]:
        """Return the weighted loss of one head.

        Args:
            head: its index.
            context: of the batch.
            stage: the stage that the head hangs on.
            samples: the stage's samples, one ``Instances`` an image.
            refined: the same RoIs after the stage's refinement; read only by a rule that asks for them.
            truth: with ``gt_masks``.

        Returns:
            ``loss_mask``: binary cross-entropy of the class of each positive RoI, mean over RoIs and
            cells. Without positives it is zero and still depends on all parameters.

        Raises:
            ValueError: the ground truth has no masks.
        """
        chosen = self.roi_rule(stage, samples, refined, truth.instances)
        rois = context.rois([c.proposal_boxes.tensor for c in chosen])
        classes = torch.cat([c.gt_classes for c in chosen])
        x = self.features(context, rois)
        logits = self._predict(head, self.flow.last(self._extractors[: head + 1], x), classes)
        with torch.autocast(device_type=logits.device.type, enabled=False):
            logits = logits.float()
            wanted = self.targets(truth.instances, chosen, logits.shape[-1]).to(logits.dtype)
            loss = F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")
        return {"loss_mask": loss * (self.loss_weights[head] / max(1, logits.numel()))}

    def add_masks(self, context: RoIContext, detections: list[Instances]) -> None:
        """Give detections their masks.

        Args:
            context: of the batch.
            detections: N items with ``pred_boxes`` and ``pred_classes`` in any frame; they are given
                ``pred_masks`` (P_i, 1, 2S, 2S), probabilities in the frame of the box.
        """
        boxes = [
            context.box_convention.rescale(d.pred_boxes.tensor, d.image_size, size)
            for d, size in zip(detections, context.image_sizes, strict=True)
        ]
        classes = torch.cat([d.pred_classes for d in detections])
        x = self.features(context, context.rois(boxes))
        features = self.flow.every(self._extractors, x)
        logits = (self._predict(k, f, classes) for k, f in enumerate(features))
        masks = sum(each.float().sigmoid() for each in logits) / self.num_heads
        for d, part in zip(detections, masks[:, None].split([len(b) for b in boxes]), strict=True):
            d.pred_masks = part

    def paste(self, detections: Instances) -> Instances:
        """Turn ``pred_masks`` in the frame of each box, in place, into bitmaps (P, H, W) of the image."""
        size = tuple(round(side) for side in detections.image_size)
        masks, boxes = detections.pred_masks[:, 0], detections.pred_boxes
        # Detectron2 gives no masks at all another type.
        detections.pred_masks = self.paste_masks(masks, boxes, size, threshold=self.threshold).bool()
        return detections

    @property
    def _extractors(self) -> list[Callable]:
        return [partial(self._run, head.extract) for head in self.heads]

    def _predict(self, head: int, features: Tensor, classes: Tensor) -> Tensor:
        return self._run(self.heads[head].predict, features, classes)

    def _run(self, function: Callable, *inputs: Tensor) -> Tensor:
        if self.checkpoint_heads and torch.is_grad_enabled():
            return checkpoint(function, *inputs, use_reentrant=False)
        return function(*inputs)
