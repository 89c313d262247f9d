"""A stand-in for a detector: modules that hold nothing but a few parameters under the usual names."""

import torch
from torch import Tensor, nn

# published name -> (our name, shape)
NAMES = {
    "backbone.conv1.weight": ("backbone.bottom_up.stem.conv1.weight", (4, 3, 7, 7)),
    "backbone.bn1.weight": ("backbone.bottom_up.stem.conv1.norm.weight", (4,)),
    "backbone.bn1.running_mean": ("backbone.bottom_up.stem.conv1.norm.running_mean", (4,)),
    "backbone.bn1.num_batches_tracked": ("backbone.bottom_up.stem.conv1.norm.num_batches_tracked", ()),
    "neck.lateral_convs.1.conv.weight": ("backbone.fpn_lateral3.weight", (4, 2, 1, 1)),
    "rpn_head.rpn_cls.bias": ("proposal_generator.rpn_head.objectness_logits.bias", (3,)),
    "roi_head.bbox_head.0.shared_fcs.0.weight": ("roi_heads.stages.0.head.fcs.0.weight", (5, 6)),
    "roi_head.bbox_head.0.fc_cls.weight": ("roi_heads.stages.0.head.cls_score.weight", (3, 5)),
    "roi_head.bbox_head.0.fc_cls.bias": ("roi_heads.stages.0.head.cls_score.bias", (3,)),
    "roi_head.bbox_head.1.fcs.2.weight": ("roi_heads.stages.1.head.classification.fcs.1.weight", (5, 5)),
    "roi_head.bbox_roi_extractor.1.att.3.bias": (
        "roi_heads.stages.1.head.regression.features.terms.0.attention.2.bias",
        (1,),
    ),
}
ALIAS = "roi_head.bbox_roi_extractor.1.conv2.bias", "roi_head.bbox_roi_extractor.1.att.3.bias"


class Part(nn.Module):
    """A module without code."""


def build(*, rows: int = 3) -> nn.Module:
    """Return the stand-in; ``rows`` is the number of rows of its classifier."""
    root = Part()
    for ours, shape in NAMES.values():
        *path, leaf = ours.split(".")
        module = root
        for name in path:
            if name not in module._modules:
                module.add_module(name, Part())
            module = module._modules[name]
        shape = (rows, *shape[1:]) if "cls_score" in ours else shape
        if leaf == "num_batches_tracked":
            module.register_buffer(leaf, torch.zeros(shape, dtype=torch.int64))
        elif leaf == "running_mean":
            module.register_buffer(leaf, torch.zeros(shape))
        else:
            module.register_parameter(leaf, nn.Parameter(torch.full(shape, -1.0)))
    return root


def published() -> dict[str, Tensor]:
    """Return a whole published state dict for the stand-in, with the second name of the aliased tensor."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for key, (_, shape) in NAMES.items():
        counter = key.endswith("num_batches_tracked")
        weights[key] = torch.tensor(7) if counter else torch.randn(shape, generator=generator)
    second, first = ALIAS
    weights[second] = weights[first].clone()
    return weights
