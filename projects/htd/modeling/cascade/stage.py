"""One stage of a cascade: sampling, head, box coding and losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Instances
from fvcore.nn import smooth_l1_loss
from torch import Tensor, nn

from htd.layers import clip_boxes


class CascadeStage(nn.Module):
    """A stage of a cascade. It does not know which detector it belongs to.

    Args:
        head: see :mod:`htd.modeling.cascade.heads`.
        sampler: labels RoIs for training, see :mod:`htd.modeling.cascade.sampling`.
        box_transform: codes boxes as deltas.
        num_classes: K.
        loss_weight: factor of both losses.
        smooth_l1_beta: where the box loss turns from quadratic to linear, in normalised deltas; 0 is L1.
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
    ):
        super().__init__()
        self.head = head
        self.sampler = sampler
        self.box_transform = box_transform
        self.num_classes = num_classes
        self.loss_weight = loss_weight
        self.smooth_l1_beta = smooth_l1_beta

    def decode(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """Apply deltas (R, B) to boxes (R, 4); return (R, B), not clipped, pixels of the resized input."""
        with torch.autocast(device_type=deltas.device.type, enabled=False):
            return self.box_transform.apply_deltas(deltas.float(), boxes.float())

    @torch.no_grad()
    def refine(
        self, logits: Tensor, deltas: Tensor, boxes: Sequence[Tensor], image_sizes: Sequence[tuple[int, int]]
    ) -> list[Tensor]:
        """Return the next stage's boxes: decoded and clipped, one (R_i, 4) an image.

        Class-specific deltas are those of each RoI's best foreground class.
        """
        decoded = self._of_class(self.decode(deltas, torch.cat(list(boxes))), logits[:, :-1].argmax(dim=1))
        parts = decoded.split([len(b) for b in boxes])
        return [clip_boxes(part, size) for part, size in zip(parts, image_sizes, strict=True)]

    def losses(
        self, logits: Tensor, deltas: Tensor, rows: Tensor, samples: Sequence[Instances]
    ) -> dict[str, Tensor]:
        """Return the weighted losses of the stage over the batch's R samples.

        Both are divided by R: background RoIs have no box target but count, so that each
        foreground RoI weighs the same in images with few and with many objects.

        Args:
            logits: (R, K + 1).
            deltas: (P, B), for the samples that ``rows`` (P,) names; the positives must be among them.
            rows: (P,) ascending.
            samples: the sampler's result.

        Returns:
            ``loss_cls``: softmax cross-entropy. ``loss_box_reg``: smooth L1 over the positives.
            Without positives the second is zero and still depends on all parameters.
        """
        classes = torch.cat([s.gt_classes for s in samples])
        boxes = torch.cat([s.proposal_boxes.tensor for s in samples])
        truth = torch.cat([s.gt_boxes.tensor for s in samples])
        with torch.autocast(device_type=logits.device.type, enabled=False):
            loss_cls = F.cross_entropy(logits.float(), classes, reduction="sum")
            chosen = classes[rows] < self.num_classes
            rows = rows[chosen]
            deltas = self._of_class(deltas.float()[chosen], classes[rows])
            wanted = self.box_transform.get_deltas(boxes[rows], truth[rows])
            loss_box = smooth_l1_loss(deltas, wanted, beta=self.smooth_l1_beta, reduction="sum")
        scale = self.loss_weight / max(1, len(classes))
        return {"loss_cls": loss_cls * scale, "loss_box_reg": loss_box * scale}

    def _of_class(self, values: Tensor, classes: Tensor) -> Tensor:
        """Return the four values (P, 4) of the given class out of (P, 4) or (P, 4K)."""
        if values.shape[1] == 4:
            return values
        each = values.view(len(values), self.num_classes, 4)
        return each[torch.arange(len(values), device=values.device), classes]
