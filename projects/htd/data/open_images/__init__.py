"""OpenImages: classes, hierarchy and annotations, from the official files and from the published text."""

from htd.data.open_images.dataset import open_images_dataset
from htd.data.open_images.files import read_classes
from htd.data.open_images.official import OfficialAnnotations
from htd.data.open_images.text import TextAnnotations

__all__ = ["OfficialAnnotations", "TextAnnotations", "open_images_dataset", "read_classes"]
