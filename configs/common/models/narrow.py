"""Makes a two-stage R-50 model small enough to learn the toy data on a CPU in minutes."""

from detectron2.config import LazyCall as L

from htd.modeling.backbones import build_resnet

CHANNELS = 48


def narrow_cascade(model):
    """Change, in place, a model whose stages all have shared fully connected heads."""
    _narrow_detector(model)
    for stage in model.roi_heads.stages:
        _narrow_fc(stage.head, stage.head.features)


def narrow_htd(model):
    """Change, in place, HTD's model."""
    _narrow_detector(model)
    model.roi_heads.context.global_vector.channels = CHANNELS
    common, heterogeneous = (stage.head for stage in model.roi_heads.stages)
    _narrow_fc(common, common.features.pooler)
    classification, regression = heterogeneous.classification, heterogeneous.regression
    _narrow_fc(classification, classification.features)
    classification.graph.update(dim=256, num_levels=2)
    regression.pooler.sampling_ratio = 1
    regression.features.terms[0].update(channels=CHANNELS, hidden=24)
    regression.tower.update(channels=CHANNELS, hidden=64, out_channels=128, num_convs=3, num_groups=8)


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
    rpn.anchor_generator.update(sizes=[[24], [48], [96]], strides=[8, 16, 32], offset=0.5)
    rpn.anchor_labeler.update(positive_iou=0.6, allowed_border=-1)
    rpn.proposal_rule.update(pre_nms_topk=[400, 400], post_nms_topk=[48, 48])
    rpn.update(batch_size_per_image=64, smooth_l1_beta=0.0)

    heads = model.roi_heads
    heads.update(num_classes=6, in_features=["p2", "p3"], strides=[4, 8])
    heads.level_rule.update(num_levels=2, finest_size=48.0)
    for stage in heads.stages:
        stage.sampler.update(batch_size_per_image=32, positive_fraction=0.5)
        stage.update(loss_weight=1.0, smooth_l1_beta=0.0)


def _narrow_fc(head, features):
    """Change a part with fully connected layers and the single-level pooler it reads."""
    head.update(channels=CHANNELS, fc_dims=[256, 256])
    features.sampling_ratio = 1
