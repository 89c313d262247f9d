"""Brings the background, the first class of older published files, to its place in our models.

Symbols: K foreground classes; "rows" are the first dimension of a weight or a bias. Published rows are in
the order background, class 1, ..., class K; those of boxes in groups of four, one a class. Ours are in
the order class 1, ..., class K, background, or leave the background out where nothing reads it.
"""

from __future__ import annotations

from torch import Tensor

_BOX = 4  # rows of one class's box


def background_last(rows: Tensor) -> Tensor:
    """Return the rows (K + 1, ...) of class scores with the background at the end."""
    return rows.roll(-1, 0)


def background_box_last(rows: Tensor) -> Tensor:
    """Return the rows (4(K + 1), ...) of boxes with the background's at the end.

    A cascade reads them: RoIs that it takes for background are refined, too. The four rows of a
    predictor with one box for all classes stay as they are.
    """
    return rows.roll(-_BOX, 0)


def without_background(rows: Tensor) -> Tensor:
    """Return K of the rows (K + 1, ...) of mask logits; one row, the mask of all classes, stays."""
    return _without_first(rows, 1)


def without_background_box(rows: Tensor) -> Tensor:
    """Return 4K of the rows (4(K + 1), ...) of boxes; four rows, the box of all classes, stay."""
    return _without_first(rows, _BOX)


def _without_first(rows: Tensor, count: int) -> Tensor:
    # A copy: a view would bring the rows that it leaves out into the file that it is saved in.
    return rows[count:].clone() if len(rows) > count else rows
