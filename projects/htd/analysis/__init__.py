"""Analysis of what detectors find: how far the scores of boxes tell how good the boxes are."""

from htd.analysis.matching import Boxes, Matches, match
from htd.analysis.score_iou import Correlation, correlate

__all__ = ["Boxes", "Correlation", "Matches", "correlate", "match"]
