"""From the command line to the config of a run."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from omegaconf import DictConfig

from htd.engine.config import load_config
from htd.engine.overrides import override_keys
from htd.engine.own_data import apply_own_data
from htd.engine.scaling import scale_to_batch


def build_config(
    arguments: argparse.Namespace, read_categories: Callable[[str], Sequence[str]]
) -> tuple[DictConfig, list[str]]:
    """Load the config that the command line names; apply overrides, own data and the batch's schedule.

    Args:
        arguments: of :func:`htd.engine.arguments.parse_arguments`.
        read_categories: returns the class names of an annotation file.

    Returns:
        The config, and lines for the log that say what was derived.

    Raises:
        UserError: anything of it that does not fit.
    """
    config = load_config(arguments.config_file, arguments.overrides)
    notes = [apply_own_data(config, arguments.own_data, read_categories)]
    if not arguments.no_scale and not arguments.eval_only:
        notes.append(scale_to_batch(config, override_keys(arguments.overrides)))
    return config, [note for note in notes if note]
