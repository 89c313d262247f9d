"""One stage of a cascade: sampling, head, box coding and losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Instances
from fvcore.nn import smooth_l1_loss
from torch import Tensor, nn

from htd.errors import UserError
from htd.layers import SoftmaxCrossEntropy
from htd.modeling.cascade.heads import Classified
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

    The background is one of the classes, so the deltas need a group for it. Source: the cascades of the
    published TSD.

    Attributes:
        may_be_background: whether the class can be the background.
    """

    may_be_background = True

    def __call__(self, logits: Tensor, classes: Tensor | None) -> Tensor:
        """Return the class (R,) of each RoI for logits (R, K + 1) and, in training, ``classes`` (R,)."""
        return logits.argmax(dim=1) if classes is None else classes


class CascadeStage(nn.Module):
    """A stage of a cascade. It does not know which detector it belongs to.

    Args:
        head: see :mod:`htd.modeling.cascade.heads`.
        sampler: labels RoIs for training, see :mod:`htd.modeling.cascade.sampling`.
        box_transform: codes boxes as deltas.
        num_classes: K.
        loss_weight: factor of all losses of the stage.
        smooth_l1_beta: where the box loss turns from quadratic to linear, in normalised deltas; 0 is L1.
        classification_loss: see :mod:`htd.layers.losses`; softmax cross-entropy if None.
        refined_class: whose deltas refine a RoI if there are some for each class;
            :class:`BestForegroundClass` if None.

    Raises:
        UserError: the head has losses of its own, which this kind of stage does not compute.
    """

    def __init__(
        self,
        *,
        head: nn.Module,
        sampler,
        box_transform: Box2BoxTransform,
        num_classes: int,
        loss_weight: float = 1.0,
        smooth_l1_beta: float = 1.0,
        classification_loss=None,
        refined_class=None,
    ):
        super().__init__()
        if getattr(head, "has_own_losses", False) and type(self) is CascadeStage:
            raise UserError(
                f"a {type(head).__name__} has losses that a CascadeStage does not compute, so parts of it "
                "would not be trained; make the stage that of the head's paper, such as TSDStage"
            )
        self.head = head
        self.sampler = sampler
        self.box_transform = box_transform
        self.num_classes = num_classes
        self.loss_weight = loss_weight
        self.smooth_l1_beta = smooth_l1_beta
        self.classification_loss = classification_loss or SoftmaxCrossEntropy()
        self.refined_class = refined_class or BestForegroundClass()

    def decode(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """Apply deltas (P, B) to boxes (P, 4); return (P, B), not clipped, pixels of the resized input."""
        with torch.autocast(device_type=deltas.device.type, enabled=False):
            return self.box_transform.apply_deltas(deltas.float(), boxes.float())

    @torch.no_grad()
    def refine(
        self,
        context: RoIContext,
        rois: RoIs,
        classified: Classified,
        deltas: Tensor,
        classes: Tensor | None = None,
    ) -> list[Tensor]:
        """Return the next stage's boxes: decoded and clipped, one (R_i, 4) an image.

        Args:
            context, rois, classified: what the head was given and gave, for R RoIs.
            deltas: (R, B).
            classes: (R,), the RoIs' classes as samples; None at test.

        Raises:
            UserError: RoIs may be refined as background, which has no deltas.
        """
        # Four are one box for all classes, of which a single class may have no more.
        if self.refined_class.may_be_background and 4 < deltas.shape[1] == 4 * self.num_classes:
            raise UserError(
                f"{type(self.refined_class).__name__} also refines RoIs as background, but the head has "
                "boxes for the foreground classes alone; set background_box=True in the parts of the head"
            )
        chosen = self.refined_class(classified.logits, classes)
        decoded = self.decode(of_class(deltas, chosen), classified.boxes)
        parts = (decoded[rois.image_index == i] for i in range(len(context.image_sizes)))
        clip = context.convention.clip
        return [clip(part, size) for part, size in zip(parts, context.image_sizes, strict=True)]

    def losses(
        self, classified: Classified, deltas: Tensor, rows: Tensor, samples: Sequence[Instances]
    ) -> dict[str, Tensor]:
        """Return the weighted losses of the stage over the batch's R samples.

        Both are divided by R: background RoIs have no box target but count, so that each
        foreground RoI weighs the same in images with few and with many objects.

        Args:
            classified: what the head gave for all samples.
            deltas: (P, B), for the samples that ``rows`` (P,) names; the positives must be among them.
            rows: (P,) ascending.
            samples: the sampler's result.

        Returns:
            ``loss_cls``: of the classification. ``loss_box_reg``: smooth L1 over the positives.
            Without positives the second is zero and still depends on all parameters.
        """
        classes = torch.cat([s.gt_classes for s in samples])
        truth = torch.cat([s.gt_boxes.tensor for s in samples])
        loss_cls = self.classification_loss(classified.logits, classes)
        with torch.autocast(device_type=deltas.device.type, enabled=False):
            chosen = classes[rows] < self.num_classes
            rows = rows[chosen]
            deltas = of_class(deltas.float()[chosen], classes[rows])
            # Where the head has moved the boxes, the target depends on its parameters as well.
            wanted = self.box_transform.get_deltas(classified.boxes[rows], truth[rows])
            loss_box = smooth_l1_loss(deltas, wanted, beta=self.smooth_l1_beta, reduction="sum")
        scale = self.loss_weight / max(1, len(classes))
        return {"loss_cls": loss_cls * scale, "loss_box_reg": loss_box * scale}

    def metrics(self, classified: Classified, samples: Sequence[Instances]) -> dict[str, Tensor]:
        """Return figures to be written beside the losses, scalars by name; here there are none.

        Args:
            classified: what the head gave for all samples.
            samples: the sampler's result.
        """
        return {}


def of_class(values: Tensor, classes: Tensor) -> Tensor:
    """Return the four values (P, 4) of the given class (P,) out of (P, B); there may be one box for all."""
    if values.shape[1] == 4:
        return values
    return values.unflatten(1, (-1, 4))[torch.arange(len(values), device=values.device), classes]
