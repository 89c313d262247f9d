"""Data: COCO-format data sets, mapping, loaders, semantic maps and the generated toy data."""

from htd.data.class_aware import ClassAwareOrder, FirstOfPermutation, UniformDraw
from htd.data.coco import coco_dataset
from htd.data.coco_file import read_categories
from htd.data.loader import build_test_loader, build_train_loader
from htd.data.mapper import DetectionMapper
from htd.data.open_images import (
    OfficialAnnotations,
    TextAnnotations,
    open_images_dataset,
    read_classes,
)
from htd.data.reader import CachedReader
from htd.data.semantic import SemanticMaps
from htd.data.semantic_drawing import draw_semantic_maps
from htd.data.transforms import InclusiveResizeCV2, ResizeCV2

__all__ = [
    "CachedReader",
    "ClassAwareOrder",
    "DetectionMapper",
    "FirstOfPermutation",
    "InclusiveResizeCV2",
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
]
