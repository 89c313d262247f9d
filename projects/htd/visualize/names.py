"""Names of classes from Detectron2's catalogs."""

from __future__ import annotations

from detectron2.data import MetadataCatalog


def registered_names(dataset_name: str) -> list[str]:
    """Return the class names of a data set in Detectron2's catalogs; none if it is not known there."""
    return list(MetadataCatalog.get(dataset_name).get("thing_classes") or ())
