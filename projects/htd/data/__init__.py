"""Data: data sets in COCO's and OpenImages' formats, mapping, loaders, semantic maps and the toy data.

What is missing or faulty in a file or a config raises :class:`htd.errors.UserError`.
"""

from htd.data.coco import coco_dataset, read_categories
from htd.data.loader import build_test_loader, build_train_loader
from htd.data.mapper import CachedReader, DetectionMapper, read_image
from htd.data.open_images import open_images_dataset
from htd.data.open_images_files import OfficialAnnotations, TextAnnotations, read_classes
from htd.data.sampling import ClassAwareOrder, FirstOfPermutation, UniformDraw
from htd.data.semantic import SemanticMaps
from htd.data.semantic_drawing import draw_semantic_maps
from htd.data.transforms import ResizeCV2

__all__ = [
    "CachedReader",
    "ClassAwareOrder",
    "DetectionMapper",
    "FirstOfPermutation",
    "OfficialAnnotations",
    "ResizeCV2",
    "SemanticMaps",
    "TextAnnotations",
    "UniformDraw",
    "build_test_loader",
    "build_train_loader",
    "coco_dataset",
    "draw_semantic_maps",
    "open_images_dataset",
    "read_categories",
    "read_classes",
    "read_image",
]
