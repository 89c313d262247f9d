"""What a process does before it trains or evaluates: device, folders, logs, seeds, checks of the data."""

from __future__ import annotations

import logging
import random
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig

from htd.collect_env import collect_env
from htd.engine.config.agreement import check_agreement
from htd.errors import UserError, reason

logger = logging.getLogger(__name__)
_KNOWN_WARNINGS = (
    # An argument that Detectron2 passes on.
    ".*broadcast_buffers.*",
    # An argument that the anchor generator does not pass.
    "torch.meshgrid: in an upcoming release",
    # A loss scaler skips steps of the optimizer on purpose.
    "Detected call of `lr_scheduler.step..` before `optimizer.step..`",
)


def prepare(config: DictConfig, notes: Sequence[str] = ()) -> None:
    """Make the output folder, start the logs, seed; ``train.seed`` becomes the seed that is used.

    Args:
        config: the config.
        notes: lines for the log.

    Raises:
        UserError: the folder cannot be made, or the device is not there.
    """
    device = usable_device(config.train.device)
    folder = Path(config.train.output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"train.output_dir {folder} cannot be made: {error.strerror}") from error
    rank = comm.get_rank()
    for name in ("fvcore", "detectron2", "htd"):
        setup_logger(str(folder), distributed_rank=rank, name=name)
    logging.getLogger("detectron2.engine.train_loop").addFilter(_without_trace)
    hide_known_warnings()
    config.train.seed = seed_everything(config.train.seed)
    logger.info("environment:\n%s", collect_env())
    logger.info("rank %d of %d, device %s, seed %d", rank, comm.get_world_size(), device, config.train.seed)
    for note in notes:
        logger.info(note)


def hide_known_warnings() -> None:
    """Let nothing be said that is known, comes from elsewhere and concerns no user."""
    for message in _KNOWN_WARNINGS:
        warnings.filterwarnings("ignore", message=message)


def _without_trace(record: logging.LogRecord) -> bool:
    """Log the message of a user's mistake without the trace; Detectron2's loop logs every error with it."""
    if record.exc_info and isinstance(record.exc_info[1], UserError):
        record.msg, record.args, record.exc_info = f"training stopped: {record.exc_info[1]}", (), None
    return True


def describe_data(config: DictConfig, part: str) -> None:
    """Log the files of the training or test data, and check that they fit the model.

    Args:
        config: the config, whose data set of this part has been loaded.
        part: ``train`` or ``test``.

    Raises:
        UserError: the model expects other data, see :func:`check_agreement`.
    """
    name = config.dataloader[part].get("dataset", {}).get("name")
    if name is None:
        check_agreement(config, part)
        return
    metadata = MetadataCatalog.get(name)
    file = metadata.get("json_file") or metadata.get("annotation_file")
    logger.info("%s data %s: %s, images in %s", part, name, file, metadata.get("image_root"))
    check_agreement(config, part, metadata.get("thing_classes"))


def parse_device(name: object) -> torch.device:
    """Return the device of a name, whether or not this machine has it.

    Raises:
        UserError: no device of torch has that name.
    """
    try:
        return torch.device(name)
    except (RuntimeError, TypeError):
        raise UserError(f"train.device={name} names no device: write cpu, cuda, cuda:1 or mps") from None


def usable_device(name: object) -> torch.device:
    """Return the device of a name after computing something on it.

    Raises:
        UserError: no device of torch has that name, or this machine or this torch does not have it.
    """
    device = parse_device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"train.device is {name}, but torch finds no GPU: set train.device=cpu")
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:  # the latter for what torch was not compiled with
        raise UserError(
            f"train.device={name} cannot be used here ({reason(error)}): set train.device=cpu"
        ) from None
    return device


def seed_everything(seed: int) -> int:
    """Seed Python, NumPy and torch differently on every rank.

    Args:
        seed: the run's seed; -1 draws one that all ranks share.

    Returns:
        The seed of the run.
    """
    if seed < 0:
        seed = comm.shared_random_seed() % 2**31
    # Neighboring runs (seeds 0 and 1) should not share the stream of any of their ranks.
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
