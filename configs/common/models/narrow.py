"""Makes a two-stage R-50 model small enough to learn the toy data on a CPU in minutes."""

from detectron2.config import LazyCall as L
from omegaconf import DictConfig, ListConfig

from htd.modeling.backbones import build_resnet

CHANNELS = 48
# What these arguments become, whichever part of the RoI heads has them.
SIZES = {"channels": CHANNELS, "fc_dims": [256, 256], "trunk_dim": 64, "sampling_ratio": 1}


def narrow_cascade(model):
    """Change, in place, any model of stages; parts of one system alone keep what is not in ``SIZES``."""
    _narrow_detector(model)
    _resize(model.roi_heads)


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


def _narrow_detector(model):
    """Change all that does not depend on the heads.

    Toy objects are some 50 pixels large in images of 160: RoI features come from p2 up to 96 pixels,
    because at stride 8 the part that tells the class is lost.
    """
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
        stage.update(loss_weight=1.0, smooth_l1_beta=0.0)


def _resize(node):
    """Set the arguments that ``SIZES`` names, in place, in a tree of parts."""
    if isinstance(node, DictConfig):
        node.update({key: size for key, size in SIZES.items() if key in node})
    if isinstance(node, DictConfig | ListConfig):
        for child in node.values() if isinstance(node, DictConfig) else node:
            _resize(child)
