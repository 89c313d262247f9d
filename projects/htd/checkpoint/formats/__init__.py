"""Published checkpoint formats, one key map each, and how a file's format is recognized."""

from __future__ import annotations

from collections.abc import Collection

from htd.checkpoint.formats.base import COUNTER, Foreign, Format, Ignored, Known, Rule
from htd.checkpoint.formats.baselines import (
    BODY,
    CASCADE_MASK_RCNN,
    CASCADE_RCNN,
    FASTER_RCNN,
    FASTER_RCNN_1,
    MASK_RCNN,
)
from htd.checkpoint.formats.dense import ATSS, FCOS, GFL, RETINANET
from htd.checkpoint.formats.foreign import DETECTRON2, IMAGENET, MMDETECTION_1, OTHER
from htd.checkpoint.formats.htc import HTC, HTC_WITHOUT_SEMANTIC
from htd.checkpoint.formats.htd import HTD
from htd.checkpoint.formats.salt import SALT, SALT_ATSS, SALT_FCOS, SALT_RETINANET
from htd.checkpoint.formats.tood import TOOD
from htd.checkpoint.formats.tsd import TSD_CASCADE, TSD_FASTER, TSD_MASK
from htd.errors import UserError

__all__ = [
    "COUNTER",
    "DETECTRON2",
    "FORMATS",
    "Foreign",
    "Format",
    "Ignored",
    "Known",
    "Rule",
    "choose",
    "recognize",
]

# The first entry that claims a file counts, so what has more parts stands before what has fewer.
_KNOWN: tuple[Known, ...] = (
    TSD_CASCADE,
    TSD_MASK,
    TSD_FASTER,
    HTD,
    HTC,
    HTC_WITHOUT_SEMANTIC,
    CASCADE_MASK_RCNN,
    MASK_RCNN,
    CASCADE_RCNN,
    FASTER_RCNN,
    MMDETECTION_1,
    FASTER_RCNN_1,
    TOOD,
    SALT,
    SALT_ATSS,
    SALT_FCOS,
    SALT_RETINANET,
    ATSS,
    FCOS,
    GFL,
    RETINANET,
    OTHER,
    DETECTRON2,
    IMAGENET,
    BODY,
)
FORMATS: dict[str, Format] = {known.name: known for known in _KNOWN if isinstance(known, Format)}


def recognize(keys: Collection[str]) -> Known | None:
    """Return what kind of file has these keys, None if it is none of the known ones."""
    return next((known for known in _KNOWN if known.claims(keys)), None)


def choose(keys: Collection[str], source: str | None = None) -> Format:
    """Return the key map for a file.

    Args:
        keys: published names.
        source: name of a format, to force it.

    Raises:
        UserError: the file is of no known format, or of one that cannot be converted.
    """
    names = ", ".join(FORMATS)
    if source is not None:
        if source not in FORMATS:
            raise UserError(f"{source!r} is not a checkpoint format; there are: {names}")
        return FORMATS[source]
    kind = recognize(keys)
    if isinstance(kind, Format):
        return kind
    if isinstance(kind, Foreign):
        raise UserError(f"the weights are those of {kind.title}: {kind.advice} (formats: {names})")
    some = ", ".join(sorted(keys)[:3]) or "none"
    raise UserError(
        f"the keys belong to no known checkpoint format (first keys: {some}); "
        f"if it is one of {names}, name it as the source"
    )
