"""Reads, overrides, checks and writes LazyConfig files, with errors that a user can act on."""

from __future__ import annotations

import builtins
import logging
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import yaml
from detectron2.config import LazyConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from htd.engine.config.overrides import checked_overrides
from htd.engine.config.renamed import rename_keys, renamed_classes, state_old_defaults
from htd.errors import UserError, reason
from htd.files import write_file

logger = logging.getLogger(__name__)
KEYS = ("model", "dataloader", "optimizer", "lr_multiplier", "train")
# What a run reads, without a value to fall back on, and the least that counts may be.
_NEEDED = (
    *("model", "dataloader.train", "optimizer.params", "lr_multiplier", "train.output_dir"),
    *("train.init_checkpoint", "train.device", "train.seed", "train.amp.enabled", "train.ddp"),
)
_COUNTS = {
    "train.max_iter": 1,
    "train.log_period": 1,
    "train.eval_period": 0,
    "train.checkpointer.period": 1,
    "dataloader.train.total_batch_size": 1,
}


def load_config(path: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Load a training config and apply the user's overrides to it.

    Args:
        path: a ``.py`` file of LazyConfig objects, or a ``config.yaml`` that a training has saved.
        overrides: ``key=value`` texts; ``+key=value`` adds a key that the config lacks.

    Returns:
        The config, which has at least the keys in ``KEYS``.

    Raises:
        UserError: the file is no such config, or an override or a setting makes no sense.
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


def _check_settings(config: DictConfig) -> None:
    """Refuse a config without a setting that a run reads, or with an impossible length or period."""
    values = {key: _select(config, key) for key in (*_NEEDED, *_COUNTS)}
    lacking = [key for key, value in values.items() if value is None]
    if lacking:
        raise UserError(
            f"the config has no value for {', '.join(lacking)}: start from a leaf under configs/, whose "
            "train node is that of configs/common/train.py"
        )
    if not str(values["train.output_dir"]).strip():
        raise UserError("train.output_dir is empty: name the folder to write to")
    for key, least in _COUNTS.items():
        if not isinstance(values[key], int) or isinstance(values[key], bool) or values[key] < least:
            raise UserError(f"{key} is {values[key]}; it has to be a whole number of at least {least}")
    if config.train.amp.get("dtype", "bf16") not in ("bf16", "fp16"):
        raise UserError(f"train.amp.dtype is {config.train.amp.dtype}; bf16 and fp16 exist")


def _select(config: DictConfig, key: str) -> object:
    try:
        return OmegaConf.select(config, key)
    except OmegaConfBaseException:  # a part of the key is no group, or an interpolation leads nowhere
        return None


def save_config(config: DictConfig, path: str | Path) -> None:
    """Write the config as a YAML file that :func:`load_config` reads again."""
    write_file(path, config_text(config))


def config_text(config: DictConfig) -> str:
    """Return the config, interpolations kept, as the text of a YAML file.

    Raises:
        UserError: an interpolation leads nowhere.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        try:
            LazyConfig.save(config, str(path))
        except InterpolationKeyError as error:
            node = str(error.full_key).split(".")[0].split("[")[0]
            raise UserError(
                f"the config cannot be saved: {error.full_key} refers to what is not there; if {node} is a "
                f"variable of a config file that only helps there, call it _{node}"
            ) from error
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
        config = LazyConfig.load(str(path)) if file.suffix == ".py" else _read_saved(file)
    except Exception as error:
        raise UserError(f"config {path} cannot be read: {_where_and_why(error, path)}") from error
    finally:
        builtins.__import__ = original_import
    if not isinstance(config, DictConfig) or config._is_none():
        raise UserError(f"{path} holds no config: its top level has to be a mapping")
    if "MODEL" in config or "_BASE_" in config:
        raise UserError(
            f"{path} is a config of Detectron2's older system (yacs); this project reads LazyConfig files"
        )
    return config


def _read_saved(file: Path) -> DictConfig:
    """Read a YAML file; old names in it are replaced, with a line for each in the log."""
    saved = file.read_text()
    text, notes = renamed_classes(saved)
    content = yaml.unsafe_load(text)
    state_old_defaults(saved, content)
    notes += rename_keys(content) if isinstance(content, dict) else []
    if notes and os.environ.get("RANK", "0") == "0":
        logger.warning("%s is of an older version:\n  %s", file, "\n  ".join(notes))
    return OmegaConf.create(content, flags={"allow_objects": True})


def _where_and_why(error: Exception, path: str) -> str:
    """Return what went wrong in one line, with the file (a config may import others) and its line."""
    cause = error.__cause__ or error
    if isinstance(cause, UserError):
        return str(cause)
    if isinstance(cause, SyntaxError) and cause.filename in (None, "<unknown>"):
        # The parser is given a text without a name, and Detectron2 names the file around its error.
        named = re.search(r"Config file (.*) has syntax error", str(error))
        return f"SyntaxError: {cause.msg} ({named[1] if named else path}, line {cause.lineno})"
    if isinstance(cause, yaml.MarkedYAMLError) and cause.problem_mark:
        return f"YAML: {cause.problem} ({path}, line {cause.problem_mark.line + 1})"
    # Of the frames, those of imported modules, the reader among them, do not tell which line is wrong.
    modules = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    frames = [
        frame
        for frame in traceback.extract_tb(cause.__traceback__)
        if frame.filename not in modules and not frame.filename.startswith("<")
    ]
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(cause).__name__}: {reason(cause)}{where}"
