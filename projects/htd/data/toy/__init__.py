"""A small data set, generated on the spot, whose objects show class and extent at different places."""

from htd.data.toy.layout import CATEGORIES
from htd.data.toy.open_images import write_open_images
from htd.data.toy.writer import make_toy_data

__all__ = ["CATEGORIES", "make_toy_data", "write_open_images"]
