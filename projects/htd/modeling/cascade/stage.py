"""One stage of a cascade: sampling, head, box coding and losses.

Symbols: R RoIs of the batch, P of them that are regressed, K foreground classes, B box coordinates per RoI
(see :mod:`htd.modeling.cascade.heads`). Boxes are XYXY in pixels of the resized input.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Instances
from fvcore.nn import smooth_l1_loss
from torch import Tensor, nn

from htd.layers import SoftmaxCrossEntropy
from htd.modeling.cascade.heads import ClassificationOutput
from htd.modeling.cascade.rois import RoIContext, RoIs


class BestForegroundClass:
    """A RoI is refined by the deltas of its best foreground class.

    Attributes:
        may_be_background: whether the class can be the background.
    """

    may_be_background = False

    def __call__(self, logits: Tensor, classes: Tensor | None) -> Tensor:
        """Return the class (R,) of each RoI for logits (R, K + 1); ``classes`` is not read."""
        return logits[:, :-1].argmax(dim=1)


class SampledOrBestClass:
    """A RoI is refined by the deltas of the class it has as a sample, at test of its best class.

    The background is one of the classes, so the deltas need a group for it. It is the rule of some
    published cascades.

    Attributes:
        may_be_background: whether the class can be the background.
    """

    may_be_background = True

    def __call__(self, logits: Tensor, classes: Tensor | None) -> Tensor:
        """Return the class (R,) of each RoI for logits (R, K + 1) and, in training, ``classes`` (R,)."""
        return logits.argmax(dim=1) if classes is None else classes


class BoxLosses:
    """Losses of a head that classifies RoIs and regresses boxes.

    Paper: Fast R-CNN, section 2.3, https://arxiv.org/abs/1504.08083.

    Args:
        loss_weight: factor of both losses.
        smooth_l1_beta: where the box loss turns from quadratic to linear, in normalized deltas; 0 is L1.
        classification_loss: see :mod:`htd.layers.losses`; softmax cross-entropy if None.
    """

    def __init__(self, *, loss_weight: float = 1.0, smooth_l1_beta: float = 1.0, classification_loss=None):
        self.loss_weight = loss_weight
        self.smooth_l1_beta = smooth_l1_beta
        self.classification_loss = classification_loss or SoftmaxCrossEntropy()

    def __call__(
        self,
        stage: CascadeStage,
        output: ClassificationOutput,
        deltas: Tensor,
        rows: Tensor,
        samples: Sequence[Instances],
    ) -> dict[str, Tensor]:
        """Return the weighted losses of the batch's R samples.

        Both are divided by R: background RoIs have no box target but count, so that each
        foreground RoI weighs the same in images with few and with many objects.

        Args:
            stage: gives the classes and the box coding.
            output: what the head gave for all samples.
            deltas: (P, B), for the samples that ``rows`` (P,) names; the positives must be among them.
            rows: (P,) ascending.
            samples: the sampler's result.

        Returns:
            ``loss_cls``: of the classification. ``loss_box_reg``: smooth L1 over the positives.
            Without positives the second is zero and still depends on all parameters.
        """
        classes = torch.cat([s.gt_classes for s in samples])
        gt_boxes = torch.cat([s.gt_boxes.tensor for s in samples])
        loss_cls = self.classification_loss(output.logits, classes)
        with torch.autocast(device_type=deltas.device.type, enabled=False):
            positive = classes[rows] < stage.num_classes
            rows = rows[positive]
            deltas = of_class(deltas.float()[positive], classes[rows])
            # Where the head has moved the boxes, the target depends on its parameters as well.
            target = stage.box_transform.get_deltas(output.boxes[rows], gt_boxes[rows])
            loss_box = smooth_l1_loss(deltas, target, beta=self.smooth_l1_beta, reduction="sum")
        scale = self.loss_weight / max(1, len(classes))
        return {"loss_cls": loss_cls * scale, "loss_box_reg": loss_box * scale}

    def metrics(self, output: ClassificationOutput, samples: Sequence[Instances]) -> dict[str, Tensor]:
        """Return figures to be written beside the losses, scalars by name; here there are none."""
        return {}


class CascadeStage(nn.Module):
    """A stage of a cascade. It does not know which detector it belongs to.

    Args:
        head: see :mod:`htd.modeling.cascade.heads`.
        sampler: labels RoIs for training, see :mod:`htd.modeling.cascade.sampling`.
        box_transform: codes boxes as deltas.
        num_classes: K.
        losses: called as :class:`BoxLosses`, which it is if None.
        refined_class: whose deltas refine a RoI if each class has some; :class:`BestForegroundClass` if None.
    """

    def __init__(
        self,
        *,
        head: nn.Module,
        sampler,
        box_transform: Box2BoxTransform,
        num_classes: int,
        losses: BoxLosses | None = None,
        refined_class=None,
    ):
        super().__init__()
        self.head = head
        self.sampler = sampler
        self.box_transform = box_transform
        self.num_classes = num_classes
        self.losses = losses or BoxLosses()
        self.refined_class = refined_class or BestForegroundClass()

    def decode(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """Apply deltas (P, B) to boxes (P, 4); return (P, B), not clipped."""
        with torch.autocast(device_type=deltas.device.type, enabled=False):
            return self.box_transform.apply_deltas(deltas.float(), boxes.float())

    @torch.no_grad()
    def refine(
        self,
        context: RoIContext,
        rois: RoIs,
        output: ClassificationOutput,
        deltas: Tensor,
        classes: Tensor | None = None,
    ) -> list[Tensor]:
        """Return the next stage's boxes: decoded and clipped, one (R_i, 4) per image.

        Args:
            context, rois, output: what the head was given and gave, for R RoIs.
            deltas: (R, B).
            classes: (R,), the RoIs' classes as samples; None at test.
        """
        # Four deltas are one box for all classes; a single class may have no more.
        if self.refined_class.may_be_background and 4 < deltas.shape[1] == 4 * self.num_classes:
            raise ValueError(
                f"{type(self.refined_class).__name__} also refines RoIs as background, but the head has "
                "boxes for the foreground classes alone; its background_box has to be True"
            )
        chosen = self.refined_class(output.logits, classes)
        decoded = self.decode(of_class(deltas, chosen), output.boxes)
        return [
            context.box_convention.clip(decoded[rois.image_index == i], size)
            for i, size in enumerate(context.image_sizes)
        ]


def of_class(values: Tensor, classes: Tensor) -> Tensor:
    """Return the four values (P, 4) of the given class (P,) out of (P, B); there may be one box for all."""
    if values.shape[1] == 4:
        return values
    return values.unflatten(1, (-1, 4))[torch.arange(len(values), device=values.device), classes]
