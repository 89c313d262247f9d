"""Small copies of configured models: the same parts, but narrow and shallow."""

from __future__ import annotations

import copy

import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.structures import BitMasks, Boxes, Instances
from omegaconf import DictConfig, ListConfig, OmegaConf

from htd.engine.config.own_data import set_num_classes
from htd.layers import GroupNormOf
from tests.configs.leaves import config_of

# What a number under this name becomes; values that a config has narrowed already stay.
NARROW = {
    "channels": 16,
    "in_channels": 16,
    "out_channels": 16,
    "hidden": 12,
    "dim": 24,
    "trunk_dim": 20,
    "attention_dim": 6,
    "num_groups": 4,
    "groups": 2,
    "width_per_group": 4,
    "stem_channels": 8,
    "batch_size_per_image": 32,
}


def narrow(node) -> None:
    """Replace the sizes in a tree of lazy calls."""
    if isinstance(node, ListConfig):
        for child in node:
            narrow(child)
    if not isinstance(node, DictConfig):
        return
    for key in list(node):
        if OmegaConf.is_interpolation(node, key):
            continue
        value = node[key]
        if key in NARROW and isinstance(value, int):
            node[key] = min(value, NARROW[key])
        elif value == "GN":
            node[key] = L(GroupNormOf)(num_groups=4)
        elif key == "fc_dims":
            node[key] = [24] * len(value)
        elif key in ("pre_nms_topk", "post_nms_topk"):
            node[key] = [min(x, 40) for x in value]
        else:
            narrow(value)


def reduced_model(path: str, num_classes: int = 4) -> DictConfig:
    """Return the model of a leaf with one block a stage, narrow parts and a few classes."""
    model = copy.deepcopy(config_of(path).model)
    narrow(model)
    bottom_up = model.backbone.bottom_up
    # A SENet-154 has no other sizes that could be changed.
    bottom_up.num_blocks = [1, 1, 1, 1]
    if "depth" in bottom_up:
        # With blocks counted here a depth above 50 says nothing more.
        bottom_up.depth = min(bottom_up.depth, 50)
        bottom_up.stem_channels = 8
    if model.backbone.get("top_block") and model.backbone.top_block.get("in_feature") == "res5":
        model.backbone.top_block.in_channels = 32 * bottom_up.stem_channels
    set_num_classes(model, num_classes)
    return model


def build(path: str, num_classes: int = 4) -> torch.nn.Module:
    """Return a seeded reduced model that gives detections without training."""
    torch.manual_seed(0)
    return instantiate(reduced_model(path, num_classes))


def selection_of(model: torch.nn.Module):
    """Return the part of a model that has the ``score_threshold`` of its detections."""
    if hasattr(model, "roi_heads"):
        return model.roi_heads.postprocessing
    return model.postprocessing.pre_nms


def iterations_of_phases(model: torch.nn.Module) -> list[int]:
    """Return an iteration in each phase of a training."""
    switch = getattr(getattr(model, "criterion", None), "switch_iter", None)
    return [0, switch] if switch else [0]


def example(num_objects: int, *, seed: int = 0, size=(64, 96), num_classes: int = 4) -> dict:
    """Return one training input: elliptic objects of at least 12 pixels a side, a semantic map of blocks."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    corner = torch.rand(num_objects, 2, generator=generator) * torch.tensor([width * 0.5, height * 0.5])
    side = 12 + torch.rand(num_objects, 2, generator=generator) * torch.tensor([width * 0.4, height * 0.4])
    instances = Instances(size)
    instances.gt_boxes = Boxes(torch.cat([corner, corner + side], dim=1))
    instances.gt_classes = torch.randint(0, num_classes, (num_objects,), generator=generator)
    instances.gt_masks = BitMasks(ellipses(instances.gt_boxes.tensor, size))
    image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    blocks = torch.randint(0, num_classes, (-(-height // 8), -(-width // 8)), generator=generator)
    blocks[torch.rand(blocks.shape, generator=generator) < 0.2] = 255
    sem_seg = blocks.repeat_interleave(8, 0).repeat_interleave(8, 1)[:height, :width]
    inputs = {"image": image, "instances": instances, "sem_seg": sem_seg}
    return inputs | {"height": height * 1.5, "width": width * 0.75}


def as_mapped(item: dict, mapper: DictConfig) -> dict:
    """Return a training input with the targets alone that a mapper of this config makes."""
    instances = item["instances"]
    if mapper.get("mask_format") is None:
        instances = Instances(instances.image_size, **instances.get_fields())
        instances.remove("gt_masks")
    mapped = item | {"instances": instances}
    if mapper.get("semantic_maps") is None:
        del mapped["sem_seg"]
    return mapped


def ellipses(boxes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return bitmaps (n, height, width) of the ellipses that boxes (n, 4) enclose."""
    y, x = (torch.arange(side) + 0.5 for side in size)
    x1, y1, x2, y2 = (boxes[:, i, None] for i in range(4))
    across, down = (2 * x - x1 - x2) / (x2 - x1), (2 * y - y1 - y2) / (y2 - y1)
    return across[:, None] ** 2 + down[:, :, None] ** 2 <= 1
