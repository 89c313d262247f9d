"""Reads, overrides, checks and writes LazyConfig files, with errors that a user can act on."""

from __future__ import annotations

import builtins
import tempfile
import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from detectron2.config import LazyConfig
from omegaconf import DictConfig

from htd.engine.overrides import checked_overrides
from htd.errors import UserError

KEYS = ("model", "dataloader", "optimizer", "lr_multiplier", "train")


def load_config(path: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Load a training config and apply the user's overrides to it.

    Args:
        path: a ``.py`` file of LazyConfig objects, or a ``config.yaml`` that a training has saved.
        overrides: ``key=value`` texts; ``+key=value`` adds a key that the config lacks.

    Returns:
        The config with (at least) the keys ``model``, ``dataloader``, ``optimizer``, ``lr_multiplier``,
        ``train``.

    Raises:
        UserError: the file is not there or is no such config, an override is malformed, names an unknown
            key or has a value of another kind, or a setting of ``train`` makes no sense.
    """
    config = _read(path)
    missing = [key for key in KEYS if key not in config]
    if missing:
        raise UserError(
            f"{path} is not a training config: it lacks {', '.join(missing)}; give a leaf such as those "
            "under configs/ (files under configs/common/ are only parts of them)"
        )
    LazyConfig.apply_overrides(config, checked_overrides(config, overrides))
    _check_settings(config)
    return config


def save_config(config: DictConfig, path: str | Path) -> None:
    """Write the config, interpolations kept, as a YAML file that :func:`load_config` reads again."""
    LazyConfig.save(config, str(path))


def config_text(config: DictConfig) -> str:
    """Return the config as the text that :func:`save_config` writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        save_config(config, path)
        return path.read_text()


def _read(path: str) -> DictConfig:
    file = Path(path)
    if file.suffix not in (".py", ".yaml", ".yml"):
        raise UserError(f"config {path} is neither a .py nor a .yaml file")
    if not file.is_file():
        near = get_close_matches(file.name, [entry.name for entry in file.parent.glob("*.*")])
        hint = (
            f"; did you mean {file.parent / near[0]}?" if near else "; --config-file names one under configs/"
        )
        raise UserError(f"config {path} does not exist{hint}")
    # LazyConfig replaces the import function while it reads, and leaves it so when the file fails.
    original_import = builtins.__import__
    try:
        config = LazyConfig.load(str(path))
    except Exception as error:
        raise UserError(f"config {path} cannot be read: {_first_line(error)}") from error
    finally:
        builtins.__import__ = original_import
    if not isinstance(config, DictConfig):
        raise UserError(f"{path} holds no config: its top level has to be a mapping")
    if "MODEL" in config or "_BASE_" in config:
        raise UserError(
            f"{path} is a config of Detectron2's older system (yacs); this project reads LazyConfig files"
        )
    return config


def _first_line(error: Exception) -> str:
    cause = error.__cause__ or error
    # Frames of the reader itself and of frozen modules do not tell the user which line is wrong.
    skipped = (LazyConfig.load.__code__.co_filename, "<")
    frames = [f for f in traceback.extract_tb(cause.__traceback__) if not f.filename.startswith(skipped)]
    frames = [f for f in frames if f.filename != __file__]
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    text = str(cause).strip()
    return f"{type(cause).__name__}: {text.splitlines()[0] if text else 'no message'}{where}"


def _check_settings(config: DictConfig) -> None:
    counts = {
        "train.max_iter": (config.train.max_iter, 1),
        "train.log_period": (config.train.log_period, 1),
        "train.eval_period": (config.train.eval_period, 0),
        "train.checkpointer.period": (config.train.checkpointer.period, 1),
        "dataloader.train.total_batch_size": (config.dataloader.train.total_batch_size, 1),
    }
    for key, (value, least) in counts.items():
        if not isinstance(value, int) or value < least:
            raise UserError(f"{key} is {value}: it has to be a whole number of at least {least}")
    if config.train.amp.enabled and config.train.amp.get("dtype", "bf16") not in ("bf16", "fp16"):
        raise UserError(f"train.amp.dtype is {config.train.amp.dtype}: bf16 and fp16 exist")
