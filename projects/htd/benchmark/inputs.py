"""Inputs of the benchmarks, and models whose work does not depend on their random weights."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, ImageList, Instances, PolygonMasks, pairwise_iou
from torch import Tensor, nn

STRIDES = (4, 8, 16, 32)
OBJECTS = 8  # per synthetic image
TRAINING_PROPOSALS, PROPOSALS = 2000, 1000
CLOSE_PER_OBJECT = 25
RARE_LOGIT = -20.0  # of every class but the first: a probability of almost 0


def random_boxes(
    count: int, image_size: tuple[int, int], seed: int = 0, largest: float = 1800.0
) -> tuple[Tensor, Tensor]:
    """Return boxes (count, 4) with sides of about 12 to ``largest`` pixels, and their levels in P2 to P5."""
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(count, 4, generator=generator)
    side = torch.exp(math.log(12) + uniform[:, 0] * math.log(largest / 12))
    ratio = torch.exp((uniform[:, 1] - 0.5) * 1.4)
    width, height = (side * ratio).clamp(max=image_size[1]), (side / ratio).clamp(max=image_size[0])
    x, y = uniform[:, 2] * (image_size[1] - width), uniform[:, 3] * (image_size[0] - height)
    levels = torch.floor(torch.log2((width * height).sqrt() / 56 + 1e-6)).clamp(0, 3).long()
    return torch.stack([x, y, x + width, y + height], dim=1), levels


def random_maps(image_size: tuple[int, int], channels: int = 256, images: int = 1) -> list[Tensor]:
    """Return the maps P2 to P5 (images, channels, H, W) of normal noise."""
    generator = torch.Generator().manual_seed(0)
    sizes = [[math.ceil(side / stride) for side in image_size] for stride in STRIDES]
    return [torch.randn(images, channels, *size, generator=generator) for size in sizes]


def synthetic_input(size: tuple[int, int], masks: str = "bitmask") -> dict:
    """Return a model's input: an image (3, height, width) of noise with elliptic objects of class 0.

    Args:
        size: (height, width).
        masks: type of ``gt_masks``, ``"bitmask"`` or ``"polygon"``.

    Returns:
        ``image``, ``height``, ``width``, ``instances`` with ``gt_boxes``, ``gt_classes`` and ``gt_masks``,
        and ``sem_seg`` (height, width), class 0 everywhere.
    """
    height, width = size
    corner = torch.rand(OBJECTS, 2) * 0.7
    boxes = torch.cat([corner, corner + 0.05 + torch.rand(OBJECTS, 2) * 0.25], dim=1)
    instances = Instances(size)
    instances.gt_boxes = Boxes(boxes * torch.tensor([width, height, width, height]))
    instances.gt_classes = torch.zeros(OBJECTS, dtype=torch.int64)
    polygons = PolygonMasks([[_ellipse(box)] for box in instances.gt_boxes.tensor.numpy()])
    bitmaps = BitMasks.from_polygon_masks(polygons, height, width)
    instances.gt_masks = polygons if masks == "polygon" else bitmaps
    return {
        "image": torch.randint(0, 256, (3, height, width), dtype=torch.uint8),
        "height": height,
        "width": width,
        "instances": instances,
        "sem_seg": torch.zeros(size, dtype=torch.int64),
    }


def _ellipse(box: np.ndarray, corners: int = 24) -> np.ndarray:
    """Return the corners x, y, x, y, ... of a polygon along the ellipse that fills a box."""
    angle = np.arange(corners) * 2 * math.pi / corners
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return ((box[:2] + box[2:]) / 2 + circle * (box[2:] - box[:2]) / 2).reshape(-1).astype(np.float64)


class FixedProposals(nn.Module):
    """Runs a proposal generator but returns proposals that do not depend on its weights.

    At inference these are 1000 random boxes. In training they are 2000, of which 25 per object overlap it
    with an IoU of at least 0.8, and the others overlap no object by 0.5. With eight objects this is more than
    the 128 positives that a stage samples, whatever its IoU threshold.

    Args:
        generator: a proposal generator with Detectron2's interface.
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
            boxes, _ = random_boxes(2 * TRAINING_PROPOSALS, size, seed=i)
            if self.training:
                boxes = _with_close_boxes(targets[i].gt_boxes.tensor.cpu(), boxes)[:TRAINING_PROPOSALS]
            else:
                boxes = boxes[:PROPOSALS]
            of_image = Instances(size, proposal_boxes=Boxes(boxes.to(images.tensor.device)))
            of_image.objectness_logits = of_image.proposal_boxes.tensor.new_zeros(len(boxes))
            proposals.append(of_image)
        return proposals, losses


def _with_close_boxes(gt_boxes: Tensor, boxes: Tensor) -> Tensor:
    """Return boxes close to the ground truth (G, 4), followed by the boxes that no stage takes as positive.

    The former are the ground truth with each side moved by at most 3 % of the extent. Boxes with a medium
    overlap are left out: they would be positives of the first stage only.
    """
    generator = torch.Generator().manual_seed(0)
    close = gt_boxes.repeat(CLOSE_PER_OBJECT, 1)
    extent = (close[:, 2:] - close[:, :2]).repeat(1, 2)
    close = close + 0.06 * (torch.rand(close.shape, generator=generator) - 0.5) * extent
    negative = pairwise_iou(Boxes(gt_boxes), Boxes(boxes)).amax(dim=0) < 0.5
    return torch.cat([close, boxes[negative]])


def fix_work(model: nn.Module) -> nn.Module:
    """Change a two-stage model, in place, so that its weights do not decide how much work it has to do.

    The proposals are those of :class:`FixedProposals`, no stage moves them, and class 0 always scores 0.5.
    So non-maximum suppression keeps the same detections in every model.
    """
    model.proposal_generator = FixedProposals(model.proposal_generator)
    for name, layer in model.roi_heads.named_modules():
        if name.endswith(("bbox_pred", "shift.2")):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        elif name.endswith("cls_score"):
            nn.init.zeros_(layer.weight)
            nn.init.constant_(layer.bias, RARE_LOGIT)
            with torch.no_grad():
                layer.bias[[0, -1]] = 0.0
    return model
