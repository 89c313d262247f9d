"""Loads weights into a model and says which of them were loaded and which began anew."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any
from urllib.error import URLError
from urllib.parse import urlparse

from detectron2.utils.file_io import PathManager

from htd.checkpoint.io import find_unconverted
from htd.checkpoint.training import BOX_CONVENTION, BOX_DECODER, TrainingCheckpointer
from htd.errors import UserError, reason

logger = logging.getLogger(__name__)
# A counter of batch norm that neither training with fixed statistics nor inference reads.
_UNREAD = "num_batches_tracked"


def load_fitting(
    checkpointer: TrainingCheckpointer, path: str, class_dependent: Callable[[], set[str]], classes: str
) -> None:
    """Load the weights that a training starts from; what depends on the number of classes may be initialized.

    Args:
        checkpointer: holds the model.
        path: file or URI; "" starts every weight anew.
        class_dependent: returns the names of the tensors whose shape depends on a number of classes.
        classes: the numbers of classes, for the log.

    Raises:
        UserError: the file is not there, nothing of it fits, or a tensor that does not depend on the number
            of classes has another shape.
    """
    if not path:
        logger.info("train.init_checkpoint is empty: every weight begins anew")
        return
    load(checkpointer, path, everything=False)
    misfit = checkpointer.incompatible
    other = set(checkpointer.other_shapes) - (class_dependent() if checkpointer.other_shapes else set())
    if other:
        raise UserError(f"{path} is of another architecture: {checkpointer.describe_shapes(other)}")
    names = _names(checkpointer)
    anew = (names & set(misfit.missing_keys)) - set(checkpointer.other_shapes)
    loaded = names - anew - set(checkpointer.other_shapes)
    if not loaded:
        raise UserError(
            f"{path} has no tensor of this model: is it of another model, or of another file format?"
        )
    line = f"weights: {len(loaded)} of {len(names)} tensors from {path}"
    if checkpointer.other_shapes:
        line += f"; re-initialized for {classes}: "
        line += ", ".join(sorted(checkpointer.other_shapes))
    if anew:
        line += f"; not in the file, began anew: {grouped(anew)}"
    if misfit.unexpected_keys:
        line += f"; in the file, not in the model: {grouped(misfit.unexpected_keys)}"
    logger.info(line)


def load_whole(checkpointer: TrainingCheckpointer, path: str, *, everything: bool) -> dict[str, Any]:
    """Load a file that has to hold every tensor of the model, as evaluation and resuming need it.

    Args:
        checkpointer: holds the model and, for resuming, what else the file restores.
        path: file or URI.
        everything: whether to restore more than the model.

    Returns:
        What else is in the file.

    Raises:
        UserError: the file is not there, or a tensor is missing or has another shape.
    """
    rest = load(checkpointer, path, everything=everything)
    misfit = checkpointer.incompatible
    if checkpointer.other_shapes:
        raise UserError(
            f"{path} does not fit the model: {checkpointer.describe_shapes(checkpointer.other_shapes)}; take "
            "the config, with its overrides, that the weights were trained or converted with; where only "
            "first numbers differ, it has another number of classes"
        )
    missing = [name for name in misfit.missing_keys if not name.endswith(_UNREAD)]
    if missing:
        raise UserError(f"{path} lacks {len(missing)} tensors of the model: {grouped(missing)}")
    if misfit.unexpected_keys:
        logger.warning("%s: not in the model: %s", path, grouped(misfit.unexpected_keys))
    logger.info("weights: all %d tensors from %s", len(_names(checkpointer)), path)
    return rest


def _names(checkpointer: TrainingCheckpointer) -> set[str]:
    return {name for name in checkpointer.model.state_dict() if not name.endswith(_UNREAD)}


def load(checkpointer: TrainingCheckpointer, path: str, *, everything: bool) -> dict[str, Any]:
    """Load a file or URI into the model (and, with ``everything``, the rest), as far as it fits.

    Raises:
        UserError: there is no such file, or it tells that its boxes are of another convention or coding than
            the model's, which no shape shows.
    """
    rest = checkpointer.load(local_file(path), checkpointables=None if everything else [])
    theirs, ours = rest.get(BOX_CONVENTION), checkpointer.box_convention
    if theirs and ours and theirs != ours:
        raise UserError(
            f"{path} was trained with {theirs}, but the model's box_convention is {ours}: boxes would "
            f"be a pixel off; take a config with {theirs}, or weights that were trained with {ours}"
        )
    theirs, ours = rest.get(BOX_DECODER), checkpointer.box_decoder
    if theirs and ours and theirs != ours:
        raise UserError(
            f"{path} is of a model that decodes boxes by {theirs}, this model.decoder is {ours}: the same "
            "numbers would mean other boxes; take the config that the weights were trained with"
        )
    return rest


def local_file(path: str) -> str:
    """Return the local file behind a path or URI.

    Raises:
        UserError: there is none, or it cannot be fetched.
    """
    try:
        file = PathManager.get_local_path(path)
    except (OSError, URLError, AssertionError, ValueError, RuntimeError) as error:
        raise UserError(f"train.init_checkpoint={path} cannot be fetched: {reason(error)}") from error
    if "://" in file and not os.path.exists(file):
        raise UserError(
            f"train.init_checkpoint={path} cannot be fetched: nothing reads "
            f"{urlparse(path).scheme}://; write a file, https://... or imagenet://..."
        )
    if not os.path.isfile(file):
        raise UserError(
            f'checkpoint {path} does not exist: set train.init_checkpoint to a file, or to "" for none'
        )
    return file


def check_weights_file(path: str, config_file: str) -> None:
    """Refuse a file that is not there, or a published one that was not converted.

    Args:
        path: the file; "" and URIs pass.
        config_file: the config of the run, for the command that converts.

    Raises:
        UserError: it is such a file.
    """
    if not path or urlparse(path).scheme:
        return
    found = find_unconverted(local_file(path))
    if not found:
        return
    title, advice = found
    if advice:
        raise UserError(f"{path} holds the weights of {title}: {advice}")
    target = f"{os.path.splitext(path)[0]}_converted.pth"
    raise UserError(
        f"{path} holds published weights ({title}) that were not converted; convert them first: python "
        f"tools/convert_checkpoint.py --config-file {config_file} {path} {target}"
    )


def grouped(names: Iterable[str]) -> str:
    """Return how many names there are below each of their first two parts."""
    groups = Counter(".".join(name.split(".")[:2]) for name in names)
    return ", ".join(f"{group} ({count})" for group, count in sorted(groups.items()))
