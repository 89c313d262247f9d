"""Pictures of ground truth and detections."""

from .inputs import draw_input
from .results import draw_results
from .side_by_side import draw_side_by_side

__all__ = ["draw_input", "draw_results", "draw_side_by_side"]
