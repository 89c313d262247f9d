"""Region proposal network on p2 ... p6 with the published rules."""

import math

from detectron2.config import LazyCall as L
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.proposal_generator import StandardRPNHead

from htd.layers.boxes import ClampedBox2BoxTransform
from htd.modeling.rpn import AnchorLabeler, ProposalRule, PublishedRPN, SampledAnchors

proposal_generator = L(PublishedRPN)(
    in_features=["p2", "p3", "p4", "p5", "p6"],
    head=L(StandardRPNHead)(in_channels=256, num_anchors=3),
    anchor_generator=L(DefaultAnchorGenerator)(
        sizes=[[32], [64], [128], [256], [512]],
        aspect_ratios=[0.5, 1.0, 2.0],
        strides=[4, 8, 16, 32, 64],
        offset=0.0,
    ),
    box2box_transform=L(ClampedBox2BoxTransform)(
        weights=[1.0, 1.0, 1.0, 1.0], scale_clamp=math.log(1000 / 16)
    ),
    anchor_labeler=L(AnchorLabeler)(
        positive_iou=0.7, negative_iou=0.3, low_quality_iou=0.3, allowed_border=0, pad_divisor=32
    ),
    proposal_rule=L(ProposalRule)(
        pre_nms_topk=[2000, 1000], post_nms_topk=[2000, 1000], nms_thresh=0.7, min_box_size=0.0
    ),
    loss_normalizer=L(SampledAnchors)(least_each=1),
    batch_size_per_image=256,
    positive_fraction=0.5,
    smooth_l1_beta=1 / 9,
    loss_weight=1.0,
)
