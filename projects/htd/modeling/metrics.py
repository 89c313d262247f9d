"""Figures about a training that are written beside its losses, through Detectron2's event storage."""

from __future__ import annotations

from collections.abc import Mapping

from detectron2.utils.events import EventStorage, get_event_storage
from torch import Tensor

# Iterations from one figure to the next, as many as between two lines of the log by default: to read a figure
# makes a GPU wait.
PERIOD = 20


def open_storage() -> EventStorage | None:
    """Return Detectron2's event storage; None outside of a training loop."""
    try:
        return get_event_storage()
    except (AssertionError, IndexError):  # by Detectron2, the second if Python is run without assertions
        return None


def due_storage() -> EventStorage | None:
    """Return where to write this iteration's figures; None in between, and outside of a training loop."""
    storage = open_storage()
    return None if storage is None or (storage.iter + 1) % PERIOD else storage


def write(storage: EventStorage, metrics: Mapping[str, Tensor], suffix: str = "") -> None:
    """Write scalars under their names and ``suffix``."""
    for name, value in metrics.items():
        storage.put_scalar(name + suffix, value.item())
