"""The mask branch that hangs on the stages of a cascade: its heads, and from which RoIs they learn.

Symbols: N images, P RoIs of the batch, K foreground classes, C channels, S side of the pooled map; a mask has
2S x 2S cells.
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

Batch = Sequence[Instances]


def init_conv(layer: nn.Module) -> nn.Module:
    """Draw the weights of a convolution before a ReLU (Kaiming normal, fan-out) and set the bias to zero."""
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    return layer


class ConvMaskHead(nn.Module):
    """Convolutions, a transposed convolution that doubles the resolution, and one mask a class.

    Paper: Mask R-CNN, section 3, the head for a feature pyramid, https://arxiv.org/abs/1703.06870.

    Args:
        num_classes: K.
        channels: C.
        num_convs: 3x3 convolutions with ReLU.
    """

    def __init__(self, *, num_classes: int, channels: int = 256, num_convs: int = 4):
        super().__init__()
        self.convs = nn.ModuleList(
            init_conv(nn.Conv2d(channels, channels, 3, padding=1)) for _ in range(num_convs)
        )
        self.deconv = init_conv(nn.ConvTranspose2d(channels, channels, 2, stride=2))
        self.predictor = init_conv(nn.Conv2d(channels, num_classes, 1))

    def extract(self, x: Tensor) -> Tensor:
        """Map RoI features (P, C, S, S) to the features that the masks are predicted from, of equal shape."""
        for conv in self.convs:
            x = F.relu(conv(x))
        return x

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits (P, K, 2S, 2S) of all classes."""
        return self.predictor(F.relu(self.deconv(features)))

    def predict(self, features: Tensor, classes: Tensor) -> Tensor:
        """Return the logits (P, 2S, 2S) of one class (P,) each, without computing the others."""
        x = F.relu(self.deconv(features))
        weight = self.predictor.weight[classes, :, 0, 0]
        return torch.einsum("pchw,pc->phw", x, weight) + self.predictor.bias[classes, None, None]


class IndependentHeads(nn.Module):
    """Each mask head sees the RoI features alone.

    Where heads are given here, they are the ``extract`` methods of :class:`ConvMaskHead`, in order.
    """

    def check(self, num_heads: int) -> None:
        """Accept any number of heads."""

    def last(self, heads: Sequence[Callable], x: Tensor) -> Tensor:
        """Return the features of the last of the heads for RoI features x; both (P, C, S, S)."""
        return heads[-1](x)

    def every(self, heads: Sequence[Callable], x: Tensor) -> list[Tensor]:
        """Return the features of each of the heads for RoI features x, all (P, C, S, S)."""
        return [head(x) for head in heads]


class SampledPositives:
    """The positives that the box head has learned from.

    Paper: Mask R-CNN, section 3.1, https://arxiv.org/abs/1703.06870.

    A rule is called with (stage, samples, refined, targets), one ``Instances`` an image each: the RoIs that
    the stage's box head has learned from, the same after its refinement, and the ground truth. It returns
    positives alone, ``proposal_boxes`` (P_i, 4) XYXY in pixels of the resized input, with the other fields of
    :mod:`htd.modeling.cascade.sampling`.

    Attributes:
        needs_refined: whether the rule reads the refined RoIs.
    """

    needs_refined = False

    def __call__(
        self, stage: CascadeStage, samples: Batch, refined: Batch | None, targets: Batch
    ) -> list[Instances]:
        """Return the samples that are foreground for the stage, image by image."""
        return [s[s.gt_classes < stage.num_classes] for s in samples]


class RefinedPositives(SampledPositives):
    """Positives of a new sample of the refined RoIs, drawn by the stage's own sampler.

    Paper: Hybrid Task Cascade for Instance Segmentation, section 3.1 (interleaved execution),
    https://arxiv.org/abs/1901.07518: masks are learned on the boxes that the box head of the same stage has
    refined.
    """

    needs_refined = True

    def __call__(
        self, stage: CascadeStage, samples: Batch, refined: Batch, targets: Batch
    ) -> list[Instances]:
        """Return the positives among new samples of the refined RoIs."""
        return super().__call__(stage, stage.sampler(refined, targets), refined, targets)


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

    Paper: Hybrid Task Cascade for Instance Segmentation, section 3.1, https://arxiv.org/abs/1901.07518; with
    one head Mask R-CNN, section 3, https://arxiv.org/abs/1703.06870.

    Args:
        features: gives RoI features (P, C, S, S), see :mod:`htd.modeling.cascade.rois`.
        heads: :class:`ConvMaskHead`, in the order of the stages.
        flow: how the heads depend on each other, :class:`IndependentHeads` or one that passes features on.
        roi_rule: chooses the RoIs that masks are learned from, such as :class:`SampledPositives`.
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
            raise ValueError(f"loss_weights has {len(self.loss_weights)} values for {self.num_heads} heads")
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
