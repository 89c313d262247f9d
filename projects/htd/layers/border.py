"""Borders of pooled maps (R, C, S, S): the outer rows and columns that the extent of a box shows in."""

import torch
from torch import Tensor


def _interior(size: int, edge: int, like: Tensor) -> Tensor:
    """Return (S,) bool, False for the ``edge`` outermost cells at either end."""
    cells = torch.arange(size, device=like.device)
    return (cells >= edge) & (cells < size - edge)


def keep_border(x: Tensor, edge: int) -> Tensor:
    """Set the interior cells of (R, C, S, S), further than ``edge`` from every side, to zero."""
    rows, columns = _interior(x.shape[-2], edge, x), _interior(x.shape[-1], edge, x)
    return x.masked_fill(rows[:, None] & columns, 0)


def drop_border(x: Tensor, edge: int) -> Tensor:
    """Set the ``edge`` outer rows and columns of (R, C, S, S) to zero."""
    rows, columns = _interior(x.shape[-2], edge, x), _interior(x.shape[-1], edge, x)
    return x.masked_fill(~(rows[:, None] & columns), 0)


def halve_border(x: Tensor, edge: int) -> Tensor:
    """Halve the ``edge`` outer rows of (R, C, S, S), then as many columns, then double the four corner cells.

    So a corner block gets a quarter, but its outermost cell a half: the published rule. On a single row or
    column corners coincide; such a cell is doubled once.
    """
    weight = x.new_ones(x.shape[-2:])
    weight[~_interior(x.shape[-2], edge, x)] *= 0.5
    weight[:, ~_interior(x.shape[-1], edge, x)] *= 0.5
    # By position: `*=` reads all cells before it writes, so that equal ones are not doubled again.
    weight[[0, 0, -1, -1], [0, -1, 0, -1]] *= 2
    return x * weight
