"""Makes an R-50 model small enough to learn the toy data on a CPU in minutes."""

import math
from itertools import pairwise

from detectron2.config import LazyCall as L
from omegaconf import DictConfig, ListConfig

from htd.layers import GroupNormOf
from htd.modeling.backbones import build_resnet

CHANNELS = 48
# What these arguments become, whichever part of the RoI heads has them.
SIZES = {"channels": CHANNELS, "fc_dims": [256, 256], "trunk_dim": 64, "sampling_ratio": 1}


def narrow_cascade(model):
    """Change, in place, any model of stages; parts of one system alone keep what is not in ``SIZES``."""
    _narrow_detector(model)
    _resize(model.roi_heads, SIZES)


def narrow_masks(model):
    """Change, in place, the mask branch: two convolutions a head, and all heads' losses weigh the same."""
    branch = model.roi_heads.mask_branch
    for head in branch.heads:
        head.num_convs = 2
    branch.loss_weights = [1.0] * len(branch.heads)


def narrow_htd(model):
    """Change, in place, HTD's model."""
    narrow_cascade(model)
    head = model.roi_heads.stages[1].head
    head.classification.graph.update(dim=256, num_levels=2)
    head.regression.features.terms[0].hidden = 24
    head.regression.tower.update(hidden=64, out_channels=128, num_convs=3, num_groups=8)


def narrow_dense(model, strides, scale=1):
    """Change, in place, any dense model; its head works on the levels of these strides, 4 or 8 and so on.

    Sizes of anchors and ranges of objects become ``scale`` times as many strides as they are.
    """
    _narrow_backbone(model)
    names = [f"p{int(stride).bit_length() - 1}" for stride in strides]
    model.update(num_classes=6, head_in_features=names)
    if "p6" not in names:
        model.backbone.top_block = None
    generator, head = model.anchor_generator, model.head
    finest = [size / generator.strides[0] for size in generator.sizes[0]]
    generator.update(
        sizes=[[scale * size * stride for size in finest] for stride in strides], strides=strides
    )
    _resize(head, {"channels": CHANNELS, "num_convs": 2, "num_layers": 4, "attention_dim": 16, "hidden": 32})
    towers = head.towers
    if "operator" in towers:
        towers.operator.update(norm=L(GroupNormOf)(num_groups=8), num_levels=len(strides))
        towers = towers.towers
    if towers.get("num_groups"):
        towers.num_groups = 8
    if head.predictors.num_levels:
        head.predictors.num_levels = len(strides)
    if "ranges" in model.criterion.get("assigner", {}):
        ends = [-1, *(8 * scale * stride for stride in strides[:-1]), math.inf]
        model.criterion.assigner.ranges = [list(pair) for pair in pairwise(ends)]


def _narrow_backbone(model):
    """Change backbone, pyramid and the statistics of pixels."""
    model.backbone.bottom_up = L(build_resnet)(
        depth=18,
        stem_channels=32,
        num_blocks=[1, 1, 1, 1],
        norm="BN",
        freeze_at=0,
        out_features=["res2", "res3", "res4", "res5"],
    )
    model.backbone.out_channels = CHANNELS
    model.pixel_mean, model.pixel_std = [128.0, 128.0, 128.0], [58.0, 58.0, 58.0]


def _narrow_detector(model):
    """Change all of a two-stage detector that does not depend on the heads.

    Toy objects are some 50 pixels large in images of 160: RoI features come from p2 up to 96 pixels,
    because at stride 8 the part that tells the class is lost.
    """
    _narrow_backbone(model)
    rpn = model.proposal_generator
    rpn.in_features = ["p3", "p4", "p5"]
    rpn.head.in_channels = CHANNELS
    rpn.anchor_generator.update(sizes=[[24], [48], [96]], strides=[8, 16, 32])
    if "offset" in rpn.anchor_generator:
        rpn.anchor_generator.offset = 0.5
    rpn.anchor_labeler.update(positive_iou=0.6, allowed_border=-1)
    rpn.proposal_rule.update(pre_nms_topk=[400, 400], post_nms_topk=[48, 48])
    rpn.update(batch_size_per_image=64, smooth_l1_beta=0.0)

    heads = model.roi_heads
    heads.update(num_classes=6, in_features=["p2", "p3"], strides=[4, 8])
    heads.level_rule.update(num_levels=2, finest_size=48.0)
    for stage in heads.stages:
        stage.sampler.update(batch_size_per_image=32, positive_fraction=0.5)
    _resize(heads.stages, {"loss_weight": 1.0, "smooth_l1_beta": 0.0})


def _resize(node, sizes):
    """Set the arguments that ``sizes`` names, in place, in a tree of parts."""
    if isinstance(node, DictConfig):
        node.update({key: size for key, size in sizes.items() if key in node})
    if isinstance(node, DictConfig | ListConfig):
        for child in node.values() if isinstance(node, DictConfig) else node:
            _resize(child, sizes)
