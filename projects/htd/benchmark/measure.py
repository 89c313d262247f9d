"""Time and peak memory of functions on a CPU or a GPU, and tables of them."""

from __future__ import annotations

import ctypes
import gc
import math
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def seconds(function: Callable[[], object], device: torch.device) -> float:
    """Return the wall time of one call, including the work that it leaves to the device."""
    _wait(device)
    start = time.perf_counter()
    function()
    _wait(device)
    return time.perf_counter() - start


def side_by_side(functions: Sequence[Callable[[], object]], repeat: int, device: torch.device) -> list[float]:
    """Return the median time of each function. They take turns, so a busy machine slows all of them alike."""
    rounds = [[seconds(function, device) for function in functions] for _ in range(repeat)]
    return [median(times) for times in zip(*rounds, strict=True)]


class PeakMemory:
    """The highest memory since the object was made, less the memory at that time.

    On a CPU this is the resident set of the process, which can be measured this way on Linux only (elsewhere
    the result is NaN). On a GPU it is what torch has allocated.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.start = self.reset()

    def bytes(self) -> float:
        """Return the peak so far."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) - self.start
        return _resident("VmHWM") - self.start

    def reset(self) -> float:
        """Forget the peak but not the start. Returns the memory in use now."""
        # Memory that was freed but not returned would hide the next peak.
        return_freed_memory(self.device)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return torch.cuda.memory_allocated(self.device)
        if not _RESET.exists():
            return math.nan
        _RESET.write_text("5")
        return _resident("VmRSS")


def return_freed_memory(device: torch.device) -> None:
    """Return memory that was freed but is still reserved to the device or the operating system."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.init()  # this may be the first CUDA call of the process
        torch.cuda.empty_cache()
    elif _RESET.exists():
        ctypes.CDLL(None).malloc_trim(0)


class Table(NamedTuple):
    """A table of texts; every row has one cell per heading."""

    head: list[str]
    rows: list[list[str]]

    def __str__(self) -> str:
        widths = [max(map(len, column)) for column in zip(self.head, *self.rows, strict=True)]
        lines = [self.head, ["-" * width for width in widths], *self.rows]
        # Names to the left, numbers to the right.
        return "\n".join(
            "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines
        )


def number(value: float) -> str:
    """Return a number with one decimal if it is below 100, and "-" for NaN."""
    if math.isnan(value):
        return "-"
    return f"{value:.1f}" if abs(value) < 100 and value % 1 else f"{value:.0f}"


def milliseconds(value: float) -> str:
    """Return a time in seconds as a number of milliseconds."""
    return number(1e3 * value)


def megabytes(value: float) -> str:
    """Return a size in bytes as a number of megabytes."""
    return number(1e-6 * value)


def _resident(field: str) -> float:
    if not _STATUS.exists():
        return math.nan
    return 1024.0 * int(re.search(rf"{field}:\s+(\d+) kB", _STATUS.read_text())[1])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
