"""Refuses single values of a dense detector's config that no part can work with."""

from __future__ import annotations

import math
from collections.abc import Sequence

from htd.errors import UserError

CHANNELS = 3  # of an image


def check_whole(where: str, value: object, least: int) -> None:
    """Check a count.

    Args:
        where: names the value, with its key as far as it is known.
        value: of the config.
        least: that is allowed.

    Raises:
        UserError: it is no whole number, or less.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f"{where} is {as_written(value)}: give a whole number of at least {least}")


def is_finite(value: object) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def as_written(value: object) -> str:
    """Return a value as a config writes it."""
    return "null" if value is None else str(value)


def check_pixels(mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
    """Check what images are normalised by.

    Args:
        mean, std: ``pixel_mean`` and ``pixel_std`` of a detector.

    Raises:
        UserError: there is not one number for each channel, or images would be divided by 0 or less.
    """
    for name, values in (("pixel_mean", mean), ("pixel_std", std)):
        if values is None or len(values) != CHANNELS or not all(map(is_finite, values)):
            raise UserError(
                f"model.{name} is {as_written(values)}: give {CHANNELS} numbers, one for each channel of "
                "an image"
            )
    if min(std) <= 0:
        raise UserError(
            f"model.pixel_std is {as_written(std)}: images are divided by it; give numbers above 0, 1 for a "
            "channel that stays as it is"
        )
