"""The losses of a stage with TSD's head, and the progressive constraint: the towers are to beat the sibling.

Paper: TSD, sections 3.1 and 3.3, https://arxiv.org/abs/2003.07540. As published, and not in the paper: the
sibling's values are constants in the constraint, and it never asks for more than a value of 1.

Symbols: N images, R RoIs of the batch, P positives among them, K foreground classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.structures import Instances
from torch import Tensor

from htd.modeling.cascade import BoxLosses, CascadeStage, of_class
from htd.modeling.tsd.head import TSDOutput


class TSDLosses:
    """Losses of the towers and of the sibling head beside them, and the margins between both.

    Args:
        box_losses: the losses of either.
        constraints: :class:`ClassificationMargin` and :class:`LocalizationMargin`, one of them or none.
    """

    def __init__(
        self, *, box_losses: BoxLosses, constraints: Sequence[ClassificationMargin | LocalizationMargin]
    ):
        self.box_losses = box_losses
        self.constraints = list(constraints)

    def __call__(
        self,
        stage: CascadeStage,
        output: TSDOutput,
        deltas: Tensor,
        rows: Tensor,
        samples: Sequence[Instances],
    ) -> dict[str, Tensor]:
        """Return the weighted losses of the stage; arguments as in :class:`htd.modeling.cascade.BoxLosses`.

        Returns:
            ``loss_cls_tsd`` and ``loss_box_reg_tsd`` of the towers; with a sibling also its ``loss_cls`` and
            ``loss_box_reg``, and, as far as there are constraints, ``loss_margin_cls`` and
            ``loss_margin_loc``. Without positives all but the classification losses are zero and still
            depend on all parameters.
        """
        towers = self.box_losses(stage, output, deltas, rows, samples)
        losses = {f"{name}_tsd": value for name, value in towers.items()}
        if output.sibling is None:
            if self.constraints:
                raise ValueError("there are constraints, but no sibling head to compare with")
            return losses
        sibling_deltas = stage.head.sibling.bbox_pred(output.sibling.features[rows])
        losses |= self.box_losses(stage, output.sibling, sibling_deltas, rows, samples)
        with torch.autocast(device_type=deltas.device.type, enabled=False):
            compared = _compare(stage, output, deltas, sibling_deltas, rows, samples)
            for constraint in self.constraints:
                margins = constraint(compared)
                losses |= {name: value * self.box_losses.loss_weight for name, value in margins.items()}
        return losses

    def metrics(self, output: TSDOutput, samples: Sequence[Instances]) -> dict[str, Tensor]:
        """Return ``tsd/accuracy`` and, with a sibling, ``tsd/sibling_accuracy``.

        Percent of the samples, background included, whose highest logit is that of their class.
        """
        heads = {"tsd/accuracy": output, "tsd/sibling_accuracy": output.sibling}
        classes = torch.cat([s.gt_classes for s in samples])
        return {
            name: 100.0 * (head.logits.argmax(dim=1) == classes).sum() / max(1, len(classes))
            for name, head in heads.items()
            if head is not None
        }


def _compare(
    stage: CascadeStage,
    output: TSDOutput,
    deltas: Tensor,
    sibling_deltas: Tensor,
    rows: Tensor,
    samples: Sequence[Instances],
) -> Comparison:
    classes = torch.cat([s.gt_classes for s in samples])
    rois = torch.tensor([len(s) for s in samples], device=classes.device)
    roi_image = torch.arange(len(samples), device=classes.device).repeat_interleave(
        rois, output_size=len(classes)
    )
    is_positive = classes < stage.num_classes
    regressed = is_positive[rows]
    positives = rows[regressed]
    boxes, sibling_boxes = (
        of_class(stage.decode(head_deltas[regressed], head.boxes[positives]), classes[positives])
        for head_deltas, head in ((deltas, output), (sibling_deltas, output.sibling))
    )
    return Comparison(
        logits=output.logits.float(),
        sibling_logits=output.sibling.logits.float(),
        classes=classes,
        boxes=boxes,
        sibling_boxes=sibling_boxes,
        gt_boxes=torch.cat([s.gt_boxes.tensor for s in samples])[positives],
        roi_image=roi_image,
        positives=torch.zeros_like(rois).index_add_(0, roi_image, is_positive.to(rois.dtype)),
        rois=rois,
    )


@dataclass(frozen=True)
class Comparison:
    """What both heads say about the samples of a batch, in float32.

    Attributes:
        logits, sibling_logits: (R, K + 1).
        classes: (R,) in [0, K].
        boxes, sibling_boxes: (P, 4), decoded for the true class, pixels of the resized input, not clipped.
        gt_boxes: (P, 4).
        roi_image: (R,) int64, the image of each RoI.
        positives, rois: (N,) how many there are of each image.
    """

    logits: Tensor
    sibling_logits: Tensor
    classes: Tensor
    boxes: Tensor
    sibling_boxes: Tensor
    gt_boxes: Tensor
    roi_image: Tensor
    positives: Tensor
    rois: Tensor


def shortfall(ours: Tensor, sibling: Tensor, margin: float) -> Tensor:
    """Return by how much values (n,) in [0, 1] miss the sibling's plus a margin; those are constants."""
    sibling = sibling.detach()
    return F.relu(sibling + (1 - sibling).clamp(max=margin) - ours)


class _Margin:
    """What both constraints have in common.

    Args:
        margin: by how much to beat the sibling, in [0, 1].
    """

    def __init__(self, *, margin: float = 0.3):
        if not 0 <= margin <= 1:
            raise ValueError(f"margin is {margin}; it has to be between 0 and 1")
        self.margin = margin


class ClassificationMargin(_Margin):
    """The probability of the true class is to exceed the sibling's.

    As published, an image without positives contributes zero loss but adds 1 to the denominator.

    Paper: TSD, section 3.3 (M_cls), https://arxiv.org/abs/2003.07540.
    """

    def __call__(self, compared: Comparison) -> dict[str, Tensor]:
        """Return ``loss_margin_cls``, a scalar: the mean over the RoIs, background included."""
        rows = torch.arange(len(compared.classes), device=compared.classes.device)
        ours = compared.logits.softmax(dim=1)[rows, compared.classes]
        sibling = compared.sibling_logits.softmax(dim=1)[rows, compared.classes]
        has_positives = compared.positives > 0
        missing = shortfall(ours, sibling, self.margin) * has_positives[compared.roi_image]
        return {"loss_margin_cls": missing.sum() / torch.where(has_positives, compared.rois, 1).sum()}


class LocalizationMargin(_Margin):
    """The IoU of the true class's box is to exceed the sibling's.

    As published, an image without positives contributes zero loss but adds 1 to the denominator.

    Paper: TSD, section 3.3 (M_loc), https://arxiv.org/abs/2003.07540.
    """

    def __call__(self, compared: Comparison) -> dict[str, Tensor]:
        """Return ``loss_margin_loc``, a scalar: the mean over the positives."""
        ours = paired_iou(compared.boxes, compared.gt_boxes)
        sibling = paired_iou(compared.sibling_boxes, compared.gt_boxes)
        missing = shortfall(ours, sibling, self.margin)
        return {"loss_margin_loc": missing.sum() / compared.positives.clamp(min=1).sum()}


def paired_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the IoU (n,) of each of the boxes (n, 4) with its partner; a union counts one pixel at least."""
    low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    inter = (high - low).clamp(min=0).prod(dim=1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(dim=1) for boxes in (a, b)]
    return inter / (sum(areas) - inter).clamp(min=1)
