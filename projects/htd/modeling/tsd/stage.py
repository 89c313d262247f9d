"""The losses of a stage with TSD's head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Instances
from torch import Tensor

from htd.errors import UserError
from htd.modeling.cascade import CascadeStage, of_class
from htd.modeling.tsd.constraint import ClassificationMargin, Comparison, LocalizationMargin
from htd.modeling.tsd.head import TSDClassified, TSDHead
from htd.modeling.tsd.sibling import NoSibling


class TSDStage(CascadeStage):
    """A stage whose head is TSD's: towers and sibling learn side by side, the towers to be better.

    Paper: TSD, sections 3.1 and 3.3.

    Args:
        constraints: :class:`ClassificationMargin` and :class:`LocalizationMargin`, any or none of them.
        head: a :class:`TSDHead`.
        sampler, box_transform, num_classes, loss_weight, smooth_l1_beta, classification_loss,
            refined_class: as in :class:`htd.modeling.cascade.CascadeStage`.

    Raises:
        UserError: the head is another; there are constraints, but it has no sibling to compare with.
    """

    def __init__(
        self,
        *,
        constraints: Sequence[ClassificationMargin | LocalizationMargin],
        head: TSDHead,
        sampler,
        box_transform: Box2BoxTransform,
        num_classes: int,
        loss_weight: float = 1.0,
        smooth_l1_beta: float = 1.0,
        classification_loss=None,
        refined_class=None,
    ):
        super().__init__(
            head=head,
            sampler=sampler,
            box_transform=box_transform,
            num_classes=num_classes,
            loss_weight=loss_weight,
            smooth_l1_beta=smooth_l1_beta,
            classification_loss=classification_loss,
            refined_class=refined_class,
        )
        if not hasattr(head, "sibling"):
            raise UserError(
                f"a TSDStage has a {type(head).__name__} for a head; give it a TSDHead, or make the stage a "
                "CascadeStage"
            )
        self.constraints = list(constraints)
        if self.constraints and isinstance(self.head.sibling, NoSibling):
            raise UserError(
                "a TSD stage has constraints, but its head has no sibling to be compared with; "
                "set constraints=[] or give the head a SiblingTower"
            )

    def losses(
        self, classified: TSDClassified, deltas: Tensor, rows: Tensor, samples: Sequence[Instances]
    ) -> dict[str, Tensor]:
        """Return the weighted losses of the stage; arguments as in ``CascadeStage``.

        Returns:
            ``loss_cls_tsd`` and ``loss_box_reg_tsd`` of the towers; with a sibling also its ``loss_cls`` and
            ``loss_box_reg``, and, as far as there are constraints, ``loss_margin_cls`` and
            ``loss_margin_loc``. Without positives all but the classification losses are zero and still
            depend on all parameters.
        """
        towers = super().losses(classified, deltas, rows, samples)
        losses = {f"{name}_tsd": value for name, value in towers.items()}
        if classified.sibling is None:
            return losses
        sibling_deltas = self.head.sibling.regress(classified.sibling, rows)
        losses |= super().losses(classified.sibling, sibling_deltas, rows, samples)
        with torch.autocast(device_type=deltas.device.type, enabled=False):
            compared = self._compare(classified, deltas, sibling_deltas, rows, samples)
            for constraint in self.constraints:
                found = constraint(compared)
                losses |= {name: value * self.loss_weight for name, value in found.items()}
        return losses

    def metrics(self, classified: TSDClassified, samples: Sequence[Instances]) -> dict[str, Tensor]:
        """Return ``tsd/accuracy`` and, with a sibling, ``tsd/sibling_accuracy``.

        Percent of the samples, background included, whose highest logit is that of their class.
        """
        heads = {"tsd/accuracy": classified, "tsd/sibling_accuracy": classified.sibling}
        classes = torch.cat([s.gt_classes for s in samples])
        return {
            name: 100.0 * (head.logits.argmax(dim=1) == classes).sum() / max(1, len(classes))
            for name, head in heads.items()
            if head is not None
        }

    def _compare(
        self,
        classified: TSDClassified,
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
        positive = classes < self.num_classes
        chosen = positive[rows]
        boxes = rows[chosen]
        found = (
            of_class(self.decode(each[chosen], reference.boxes[boxes]), classes[boxes])
            for each, reference in ((deltas, classified), (sibling_deltas, classified.sibling))
        )
        ours, sibling = found
        return Comparison(
            logits=classified.logits.float(),
            sibling_logits=classified.sibling.logits.float(),
            classes=classes,
            boxes=ours,
            sibling_boxes=sibling,
            gt_boxes=torch.cat([s.gt_boxes.tensor for s in samples])[boxes],
            roi_image=roi_image,
            positives=torch.zeros_like(rois).index_add_(0, roi_image, positive.to(rois.dtype)),
            rois=rois,
        )
