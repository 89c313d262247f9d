"""Faster R-CNN, ResNet-50, FPN: one stage, class-specific boxes, L1 losses, all anchors."""

from .two_stage import box_stage, shared_fc_head, two_stage_detector

model = two_stage_detector(
    stages=[box_stage(iou=0.5, stds=(0.1, 0.1, 0.2, 0.2), head=shared_fc_head(class_agnostic=False))]
)
model.roi_heads.stages[0].losses.smooth_l1_beta = 0.0
model.proposal_generator.smooth_l1_beta = 0.0
model.proposal_generator.anchor_labeler.allowed_border = -1
model.proposal_generator.proposal_rule.post_nms_topk = [1000, 1000]
