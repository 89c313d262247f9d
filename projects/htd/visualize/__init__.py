"""Pictures of ground truth and detections, and of what models look at."""

from htd.visualize.canvas import registered_names
from htd.visualize.files import find_images, make_folder, picture_names, write_picture
from htd.visualize.model import draw_model
from htd.visualize.side_by_side import draw_input, draw_results, draw_side_by_side

__all__ = [
    "draw_input",
    "draw_model",
    "draw_results",
    "draw_side_by_side",
    "find_images",
    "make_folder",
    "picture_names",
    "registered_names",
    "write_picture",
]
