"""Evaluation of detections; what is missing or faulty raises :class:`htd.errors.UserError`."""

from htd.evaluation.coco import COCOEvaluator
from htd.evaluation.merged_views import MergedViews
from htd.evaluation.open_images import OpenImagesEvaluator
from htd.evaluation.open_images_results import (
    read_coco_results,
    read_detections,
    write_challenge_csv,
    write_detections,
)
from htd.evaluation.open_images_scores import OfficialRule, PublishedRule
from htd.evaluation.test_time_augmentation import AveragedViews
from htd.evaluation.views import View

__all__ = [
    "AveragedViews",
    "COCOEvaluator",
    "MergedViews",
    "OfficialRule",
    "OpenImagesEvaluator",
    "PublishedRule",
    "View",
    "read_coco_results",
    "read_detections",
    "write_challenge_csv",
    "write_detections",
]
