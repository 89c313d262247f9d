"""Building blocks of the two-stage models: functions that leave the differences to the model's file.

``num_classes`` stands once, in ``model.roi_heads``; every part refers to the one above it.
"""

import math

from detectron2.config import LazyCall as L
from detectron2.modeling.matcher import Matcher

from htd.layers import ClampedBox2BoxTransform, HardNMS
from htd.modeling.cascade import (
    BoxLosses,
    CascadeStage,
    ContextParts,
    ConvMaskHead,
    DetectionPostProcessing,
    IndependentHeads,
    LevelRule,
    MaskBranch,
    MeanLogits,
    NoMasks,
    ReassigningMatcher,
    RoISampler,
    SampledPositives,
    SharedFCHead,
    SingleLevelPooler,
    StagedROIHeads,
)
from htd.modeling.rcnn import RescaleFirstRCNN

from .resnet_fpn import backbone
from .rpn import proposal_generator


def box_stage(*, iou, stds, head, loss_weight=1.0):
    """A stage trained at an IoU, with the published sampling and box coding."""
    return L(CascadeStage)(
        head=head,
        sampler=L(RoISampler)(
            matcher=L(Matcher)(thresholds=[iou], labels=[0, 1], allow_low_quality_matches=False),
            num_classes="${..num_classes}",
            batch_size_per_image=512,
            positive_fraction=0.25,
        ),
        box_transform=L(ClampedBox2BoxTransform)(
            weights=[1 / s for s in stds], scale_clamp=math.log(1000 / 16)
        ),
        num_classes="${...num_classes}",
        losses=L(BoxLosses)(loss_weight=loss_weight, smooth_l1_beta=1.0),
    )


def roi_pooler():
    """7x7 RoI features of each RoI's own level."""
    return L(SingleLevelPooler)(output_size=7, sampling_ratio=0, aligned=True)


def shared_fc_head(*, class_agnostic=True):
    """Two fully connected layers of 1024 on 7x7 RoI features."""
    return L(SharedFCHead)(
        features=roi_pooler(),
        num_classes="${..num_classes}",
        channels=256,
        resolution=7,
        fc_dims=[1024, 1024],
        class_agnostic=class_agnostic,
    )


def objects_take_their_best_rois(stages):
    """Give every stage, in place, the matcher of the published HTC and TSD, at the stage's IoU."""
    for stage in stages:
        stage.sampler.matcher = L(ReassigningMatcher)(iou=stage.sampler.matcher.thresholds[0])


def mask_branch(*, loss_weights):
    """A mask head of four convolutions on 14x14 RoI features for each of the last stages, one a weight.

    The heads see nothing of each other and learn from the positives that the box heads learn from.
    """
    head = L(ConvMaskHead)(num_classes="${....num_classes}", channels=256, num_convs=4)
    return L(MaskBranch)(
        features=L(SingleLevelPooler)(output_size=14, sampling_ratio=0, aligned=True),
        heads=[head] * len(loss_weights),
        flow=L(IndependentHeads)(),
        roi_rule=L(SampledPositives)(),
        loss_weights=loss_weights,
        threshold=0.5,
        checkpoint_heads=False,
    )


def two_stage_detector(*, stages):
    """ResNet-50, FPN, RPN and the given stages, with the published pre- and post-processing."""
    return L(RescaleFirstRCNN)(
        backbone=backbone,
        proposal_generator=proposal_generator,
        roi_heads=L(StagedROIHeads)(
            num_classes=80,
            in_features=["p2", "p3", "p4", "p5"],
            strides=[4, 8, 16, 32],
            context=L(ContextParts)(),
            level_rule=L(LevelRule)(num_levels=4, finest_size=56.0, offset=1e-6),
            stages=stages,
            fusion=L(MeanLogits)(),
            postprocessing=L(DetectionPostProcessing)(
                score_threshold=0.05, nms=L(HardNMS)(iou_threshold=0.5), max_detections=100
            ),
            mask_branch=L(NoMasks)(),
        ),
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
        input_format="RGB",
    )
