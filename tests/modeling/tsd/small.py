"""RoI heads of the reference cases, with the weights of their manifests, and what they are given."""

from __future__ import annotations

from functools import lru_cache

import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.structures import Boxes, ImageList, Instances

from htd.checkpoint import convert
from tests.recorded import extents, manifest, published_weights, random_input

STRIDES = {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}
# Which model's RoI heads a reference case has.
MODELS = {
    "cascade_small": "tsd_cascade_legacy",
    "cascade_mixed": "tsd_cascade_legacy",
    "mask_small": "tsd_mask_legacy",
}
# Published names of the head's losses -> ours.
HEAD_LOSSES = {
    "loss_cls": "loss_cls",
    "loss_bbox": "loss_box_reg",
    "loss_TSD_cls": "loss_cls_tsd",
    "loss_TSD_bbox": "loss_box_reg_tsd",
    "loss_pc_cls": "loss_margin_cls",
    "loss_pc_loc": "loss_margin_loc",
}
SMALL = {"channels": 32, "fc_dims": [64, 64]}
# Of the cases that have another number.
CHANNELS = {"rpn_small": 16}


def model_config(case: str):
    """Return the config of the whole model whose RoI heads a case has, in the case's size."""
    name = MODELS.get(case, "tsd_faster_legacy")
    model = LazyConfig.load(f"configs/common/models/{name}.py").model
    if case == "cascade_mixed":
        base = LazyConfig.load("configs/common/models/faster_rcnn_legacy.py").model
        plain, first = base.roi_heads.stages[0], model.roi_heads.stages[0]
        plain.head.background_box = True
        plain.update(refined_class=first.refined_class, sampler=first.sampler)
        model.roi_heads.stages[0] = plain
    if not case.endswith("_full"):
        model.roi_heads.num_classes = 8
        _resize(model.roi_heads)
    return model


def _resize(node):
    for key in list(node) if hasattr(node, "keys") else range(len(node)):
        if key in SMALL:
            node[key] = SMALL[key]
        elif hasattr(node._get_node(key), "_get_node"):
            _resize(node[key])


@lru_cache(maxsize=2)
def roi_heads(case: str):
    """Return the RoI heads of a case in evaluation mode, all tensors set from its manifest."""
    heads = instantiate(model_config(case)).roi_heads.eval()
    load(heads, published_weights("tsd", case))
    return heads


def load(heads, weights: dict[str, torch.Tensor]) -> dict[str, str]:
    """Load published weights ``bbox_head.*`` and ``mask_head.*`` into RoI heads alone.

    Returns:
        Published name -> name in the detector.
    """
    holder = torch.nn.Module()
    holder.roi_heads = heads
    converted, report = convert(weights, holder)
    holder.load_state_dict(converted, strict=True)
    return report.used


def maps(
    case: str, name: str, batch: int, size: tuple[int, int], *, last: int = 5
) -> dict[str, torch.Tensor]:
    """Return the maps p2 ... p<last> (batch, C, H / stride, W / stride) drawn as ``<name>.P<level>``."""
    spec = manifest("tsd", case)
    channels = 256 if case.endswith("_full") else CHANNELS.get(case, SMALL["channels"])
    found = {}
    for level in range(2, last + 1):
        sides = [-(-side // 2**level) for side in size]
        found[f"p{level}"] = random_input(f"{name}.P{level}", (batch, channels, *sides), spec["seed"])
    return found


def proposals(size: tuple[int, int], *boxes: torch.Tensor) -> list[Instances]:
    """Return one ``Instances`` an image for published boxes (n, 4)."""
    return [Instances(size, proposal_boxes=Boxes(extents(b[:, :4]))) for b in boxes]


def targets(arrays: dict[str, torch.Tensor], size: tuple[int, int], num_images: int) -> list[Instances]:
    """Return the ground truth ``in{i}_gt`` of a case; published labels count from 1."""
    return [
        Instances(
            size,
            gt_boxes=Boxes(extents(arrays[f"in{i}_gt"])),
            gt_classes=arrays[f"in{i}_gt_label"] - 1,
        )
        for i in range(num_images)
    ]


def samples(arrays: dict[str, torch.Tensor], size: tuple[int, int], num_classes: int) -> list[Instances]:
    """Return the samples ``in{i}_pos`` and ``in{i}_neg`` of a case, as a stage's sampler returns them."""
    found = []
    for i in range(sum(name.endswith("_neg") for name in arrays)):
        positive, negative = arrays[f"in{i}_pos"], arrays[f"in{i}_neg"]
        background = torch.full((len(negative),), num_classes)
        found.append(
            Instances(
                size,
                proposal_boxes=Boxes(extents(torch.cat([positive, negative]))),
                gt_classes=torch.cat([arrays[f"in{i}_pos_label"] - 1, background]),
                gt_boxes=Boxes(torch.cat([extents(arrays[f"in{i}_pos_gt"]), torch.zeros_like(negative)])),
            )
        )
    return found


def images(size: tuple[int, int], count: int) -> ImageList:
    """Return a batch of images of one size; only the sizes are ever read."""
    return ImageList(torch.zeros(count, 3, *size), [size] * count)


def background_last(columns: torch.Tensor, width: int = 1) -> torch.Tensor:
    """Return published columns (R, ``width`` (K + 1)), background first, in the order of our models."""
    return columns.roll(-width, dims=1)
