"""Metrics of a training that are written beside its losses, through Detectron2's event storage."""

from __future__ import annotations

from collections.abc import Mapping

from detectron2.utils.events import EventStorage, get_event_storage
from torch import Tensor

# Iterations from one metric to the next, as many as between two lines of the log by default: to read a metric
# makes a GPU wait.
PERIOD = 20


def storage_every(period: int) -> EventStorage | None:
    """Return Detectron2's event storage in every ``period``-th iteration, otherwise None."""
    try:
        storage = get_event_storage()
    except (AssertionError, IndexError):  # by Detectron2, the second if Python is run without assertions
        return None
    return None if (storage.iter + 1) % period else storage


def write(storage: EventStorage, metrics: Mapping[str, Tensor], suffix: str = "") -> None:
    """Write scalars under their names and ``suffix``."""
    for name, value in metrics.items():
        storage.put_scalar(name + suffix, value.item())
