"""Seeds, saves and restores the random number generators of a process."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng


def seed_everything(seed: int) -> int:
    """Seed Python, NumPy and torch differently on every rank.

    Args:
        seed: the run's seed; -1 draws one that all ranks share.

    Returns:
        The seed of the run.
    """
    if seed < 0:
        seed = comm.shared_random_seed() % 2**31
    # Neighbouring runs (seeds 0 and 1) should not share the stream of any of their ranks.
    seed_all_rng((seed * 1009 + comm.get_rank()) % 2**32)
    return seed


def random_state() -> dict[str, Any]:
    """Return the state of all generators, as values that ``torch.load`` reads without running code."""
    numpy_state = np.random.get_state(legacy=False)
    state = {
        "python": random.getstate(),
        "numpy": {
            "key": torch.from_numpy(numpy_state["state"]["key"].astype(np.int64)),
            "pos": int(numpy_state["state"]["pos"]),
            "has_gauss": int(numpy_state["has_gauss"]),
            "gauss": float(numpy_state["gauss"]),
        },
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Put all generators into a state that :func:`random_state` has returned."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    saved = state["numpy"]
    np.random.set_state(
        ("MT19937", saved["key"].numpy().astype(np.uint32), saved["pos"], saved["has_gauss"], saved["gauss"])
    )
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Undo what runs inside does to the generators: evaluating or opening data must not change a training."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)
