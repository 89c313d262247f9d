"""What a process does before it trains or evaluates: folders, logs, seeds, checks of the data."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

from detectron2.data import MetadataCatalog
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig

from htd.collect_env import collect_env
from htd.engine.config.agreement import check_agreement
from htd.engine.device import usable_device
from htd.engine.random_state import seed_everything
from htd.errors import UserError

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
