"""Evaluation of detections."""

from htd.evaluation.coco import COCOEvaluator

__all__ = ["COCOEvaluator"]
