"""Analysis of what detectors find: how far the scores of boxes tell how good the boxes are."""

from htd.analysis.score_iou import Boxes, Correlation, Matches, correlate, match

__all__ = ["Boxes", "Correlation", "Matches", "correlate", "match"]
