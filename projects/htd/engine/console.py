"""Progress of a training on the console."""

from __future__ import annotations

import datetime
import logging
import resource
import sys

import torch
from detectron2.utils.events import EventStorage, EventWriter, get_event_storage

logger = logging.getLogger(__name__)


class ConsoleWriter(EventWriter):
    """Logs iteration, losses, learning rate, time, ETA and peak memory of this process.

    Args:
        max_iter: length of the training.
        window: iterations over which losses are smoothed by their median.
    """

    def __init__(self, max_iter: int, window: int = 20) -> None:
        self._max_iter = max_iter
        self._window = window

    def write(self) -> None:
        """Log one line about the newest iteration."""
        storage = get_event_storage()
        if storage.iter >= self._max_iter:  # called once more when the training is over
            return
        if "lr" not in storage.histories():  # once more, too, when the very first iteration has failed
            return
        done = storage.iter + 1
        losses = [(name, values) for name, values in storage.histories().items() if name.startswith("loss_")]
        terms = "  ".join(f"{name} {values.median(self._window):.4g}" for name, values in losses)
        parts = [
            f"iteration {done}/{self._max_iter}",
            f"total_loss {storage.history('total_loss').median(self._window):.4g}",
            terms,
            f"lr {storage.history('lr').latest():.4g}",
            *_speed(storage, self._max_iter - done),
            f"peak memory {peak_memory() / 2**20:.0f} MB",
        ]
        logger.info("  ".join(parts))


def peak_memory() -> int:
    """Return the most bytes that this process has held: on the GPU if it uses one, else resident."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _speed(storage: EventStorage, left: int) -> list[str]:
    """Return time an iteration and ETA; nothing in the first iterations, which are not timed."""
    if "time" not in storage.histories():
        return []
    data = storage.history("data_time").avg(20)
    seconds = storage.history("time").median(1000)
    eta = datetime.timedelta(seconds=int(seconds * left))
    return [f"{seconds:.3f} s/it (data {data:.3f})", f"eta {eta}"]
