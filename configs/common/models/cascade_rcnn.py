"""Cascade R-CNN, ResNet-50, FPN: three stages at rising IoU, class-agnostic boxes."""

from .two_stage import box_stage, shared_fc_head, two_stage_detector

model = two_stage_detector(
    stages=[
        box_stage(iou=0.5, stds=(0.1, 0.1, 0.2, 0.2), head=shared_fc_head()),
        box_stage(iou=0.6, stds=(0.05, 0.05, 0.1, 0.1), head=shared_fc_head(), loss_weight=0.5),
        box_stage(iou=0.7, stds=(0.033, 0.033, 0.067, 0.067), head=shared_fc_head(), loss_weight=0.25),
    ]
)
