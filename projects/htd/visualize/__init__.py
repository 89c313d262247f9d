"""Pictures of ground truth and detections."""

from htd.visualize.inputs import draw_input
from htd.visualize.results import draw_results
from htd.visualize.side_by_side import draw_side_by_side

__all__ = ["draw_input", "draw_results", "draw_side_by_side"]
