"""Time and peak memory of a function, on a CPU or a GPU."""

from __future__ import annotations

import ctypes
import gc
import re
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def seconds(function: Callable[[], object], device: torch.device) -> float:
    """Run a function once and return the wall time, waiting for the device before and after."""
    _wait(device)
    start = time.perf_counter()
    function()
    _wait(device)
    return time.perf_counter() - start


def side_by_side(functions: list[Callable[[], object]], repeat: int, device: torch.device) -> list[float]:
    """Return the median time of each function; they take turns, so that a busy machine slows all alike."""
    rounds = [[seconds(function, device) for function in functions] for _ in range(repeat)]
    return [median(times) for times in zip(*rounds, strict=True)]


class PeakMemory:
    """How far memory has risen at most since the object was made.

    On a CPU that is the resident set of the process, which Linux alone lets one measure so; elsewhere the
    figure is not a number. On a GPU it is what torch has allocated.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.start = self.forget()

    def bytes(self) -> float:
        """Return the rise so far."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) - self.start
        return _resident("VmHWM") - self.start

    def forget(self) -> float:
        """Forget the rise so far but not the start, and return what is in use now."""
        # What was freed but is still held would hide the next rise.
        hand_back_memory(self.device)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return torch.cuda.memory_allocated(self.device)
        if not _RESET.exists():
            return float("nan")
        _RESET.write_text("5")
        return _resident("VmRSS")


def hand_back_memory(device: torch.device) -> None:
    """Give what was freed but is still held back to the device or, where that can be done, to the system."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.init()  # the first call of a process may be this one
        torch.cuda.empty_cache()
    elif _RESET.exists():
        ctypes.CDLL(None).malloc_trim(0)


class Comparison(NamedTuple):
    """Median seconds and peak bytes of the reference and of ours in one case."""

    case: str
    reference_seconds: float
    seconds: float
    reference_bytes: float
    bytes: float


def compare(case: str, reference: Callable, ours: Callable, repeat: int, device: torch.device) -> Comparison:
    """Measure two functions of no argument; the run that shows their memory also warms them up."""
    memory = []
    for function in (reference, ours):
        peak = PeakMemory(device)
        function()
        memory.append(peak.bytes())
    times = side_by_side([reference, ours], repeat, device)
    return Comparison(case, *times, *memory)


def _resident(field: str) -> float:
    if not _STATUS.exists():
        return float("nan")
    return 1024.0 * int(re.search(rf"{field}:\s+(\d+) kB", _STATUS.read_text())[1])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
