"""Tables as the benchmarks print them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple


class Table(NamedTuple):
    """A row has as many cells as the head."""

    head: list[str]
    rows: list[list[str]]

    def print(self) -> None:
        """Print columns: the first to the left, figures to the right."""
        widths = [max(map(len, column)) for column in zip(self.head, *self.rows, strict=True)]
        for row in [self.head, ["-" * width for width in widths], *self.rows]:
            print("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]))


def number(value: float) -> str:
    """Return a figure with as many digits as are of use; "-" where there is none."""
    if math.isnan(value):
        return "-"
    return f"{value:.1f}" if abs(value) < 100 and value % 1 else f"{value:.0f}"


def numbers(values: Iterable[float]) -> list[str]:
    """Return the texts of several figures."""
    return [number(value) for value in values]
