"""Models whose RoIs and detections do not depend on their random weights, so that equal work is compared."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from detectron2.structures import Boxes, ImageList, Instances, pairwise_iou
from torch import Tensor, nn

from benchmark_inputs import random_regions

TRAINING_PROPOSALS, PROPOSALS = 2000, 1000
FITTING_EACH = 25  # of the training proposals, an object
UNSEEN = -20.0  # logit of all classes but the first: next to nothing in the softmax


class SteadyProposals(nn.Module):
    """Runs a proposal generator, and hands on proposals of its own.

    At inference 1000 that lie anywhere. In training 2000, of which 25 an object overlap it by 0.8 at least:
    with eight objects more than the 128 positives that a stage draws, whatever its IoU. The others
    overlap none by 0.5.

    Args:
        generator: a proposal generator of Detectron2's interface.
    """

    def __init__(self, generator: nn.Module):
        super().__init__()
        self.generator = generator

    def forward(
        self, images: ImageList, features: Mapping[str, Tensor], targets: list[Instances] | None = None
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Return proposals of each image, and the losses of the generator."""
        _, losses = self.generator(images, features, targets)
        proposals = []
        for i, size in enumerate(images.image_sizes):
            regions, _ = random_regions(2 * TRAINING_PROPOSALS, seed=i, image=size)
            if self.training:
                boxes = _with_fitting(targets[i].gt_boxes.tensor.cpu(), regions)[:TRAINING_PROPOSALS]
            else:
                boxes = regions[:PROPOSALS]
            found = Instances(size, proposal_boxes=Boxes(boxes.to(images.tensor.device)))
            found.objectness_logits = found.proposal_boxes.tensor.new_zeros(len(boxes))
            proposals.append(found)
        return proposals, losses


def steady(model: nn.Module) -> nn.Module:
    """Change a model, in place, so that its weights do not decide what it has to do.

    The RoIs are those of :class:`SteadyProposals`; no stage moves them, and class 0 scores 0.5 in all of
    them. Non-maximum suppression so leaves the same detections of every model.

    Args:
        model: a two-stage model of this project, or Detectron2's cascade.
    """
    model.proposal_generator = SteadyProposals(model.proposal_generator)
    for name, layer in model.roi_heads.named_modules():
        if name.endswith(("bbox_pred", "shift.2")):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        elif name.endswith("cls_score"):
            nn.init.zeros_(layer.weight)
            nn.init.constant_(layer.bias, UNSEEN)
            with torch.no_grad():
                layer.bias[[0, -1]] = 0.0
    return model


def _with_fitting(truth: Tensor, regions: Tensor) -> Tensor:
    """Return boxes near the ground truth (G, 4), and those of the regions that no stage takes for positive.

    The former have each side moved by at most 3 % of the extent. A region that fits somewhat might be
    positive in the first stage, where it would displace one of them, and not in the last.
    """
    generator = torch.Generator().manual_seed(0)
    fitting = truth.repeat(FITTING_EACH, 1)
    extent = (fitting[:, 2:] - fitting[:, :2]).repeat(1, 2)
    fitting = fitting + 0.06 * (torch.rand(fitting.shape, generator=generator) - 0.5) * extent
    negative = pairwise_iou(Boxes(truth), Boxes(regions)).amax(dim=0) < 0.5
    return torch.cat([fitting, regions[negative]])
