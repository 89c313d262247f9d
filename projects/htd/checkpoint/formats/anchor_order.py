"""Brings the nine anchors of a RetinaNet's cell, which published files order by shape first, into our order.

Symbols: K classes. Published anchor 3r + s has the r-th ratio of its sides and the s-th size; ours, as
Detectron2's generator makes them, is 3s + r. A predictor has the rows of one anchor beside each other: K of
scores, or four of deltas.
"""

from __future__ import annotations

from torch import Tensor

from htd.errors import UserError

_RATIOS = _SIZES = 3
_ANCHORS = _RATIOS * _SIZES
_BOX = 4  # rows of one anchor's box


def scores_by_size(rows: Tensor) -> Tensor:
    """Return the rows (9K, ...) of class scores in our order of anchors.

    Raises:
        UserError: they are not those of nine anchors.
    """
    return _by_size(rows, len(rows) % _ANCHORS == 0, "class scores")


def boxes_by_size(rows: Tensor) -> Tensor:
    """Return the rows (36, ...) of box deltas in our order of anchors.

    Raises:
        UserError: they are not those of nine anchors.
    """
    return _by_size(rows, len(rows) == _BOX * _ANCHORS, "boxes")


def boxes_of_one(rows: Tensor) -> Tensor:
    """Return the rows (4, ...) of box deltas of one anchor a cell, which has no order.

    Raises:
        UserError: they are not those of one anchor.
    """
    if len(rows) != _BOX:
        raise UserError(
            f"the RetinaNet with SALT of this file has {len(rows)} rows of boxes, which is not one anchor a "
            "cell: the published head takes no more, and the order of other anchors is not known"
        )
    return rows


def _by_size(rows: Tensor, of_nine: bool, title: str) -> Tensor:
    if not of_nine:
        raise UserError(
            f"the RetinaNet of this file has {len(rows)} rows of {title}, which is not {_ANCHORS} anchors a "
            f"cell ({_RATIOS} ratios, {_SIZES} sizes): the order of other anchors is not known"
        )
    return rows.unflatten(0, (_RATIOS, _SIZES, -1)).transpose(0, 1).flatten(0, 2)
