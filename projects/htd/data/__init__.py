"""Data: COCO-format data sets, mapping, loaders and the generated toy data."""

from .coco import coco_dataset
from .coco_file import read_categories
from .loader import build_test_loader, build_train_loader
from .mapper import DetectionMapper
from .reader import CachedReader
from .transforms import ResizeCV2

__all__ = [
    "CachedReader",
    "DetectionMapper",
    "ResizeCV2",
    "build_test_loader",
    "build_train_loader",
    "coco_dataset",
    "read_categories",
]
