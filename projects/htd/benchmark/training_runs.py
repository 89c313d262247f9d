"""Trainings in processes of their own, and the folders and files that they share."""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from htd.benchmark import ROOT
from htd.errors import UserError
from htd.files import write_file

METRIC = "bbox/AP"


def run_training(
    config_file: str | Path, folder: Path, datasets: Path, arguments: Sequence[str], log: Path | None = None
) -> None:
    """Run ``train_net.py`` in a process of its own, which ends when this one is terminated.

    If this process is killed instead, the training continues and still locks the folder of :func:`locked`.

    Args:
        config_file: the config.
        folder: where the run writes; emptied first, unless ``--resume`` is among the arguments.
        datasets: the folder that relative paths of data start from.
        arguments: further arguments of ``train_net.py``.
        log: file to which the output is appended; None to print it.

    Raises:
        UserError: the process failed.
    """
    if "--resume" not in arguments:
        shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, str(ROOT / "train_net.py"), "--config-file", str(config_file)]
    command += [*arguments, f"train.output_dir={folder}"]
    # On a busy machine several threads lose more time waiting for each other than they gain.
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "DETECTRON2_DATASETS": str(datasets)}
    # subprocess.run ends the process when an exception is raised, but SIGTERM raises none by default.
    before = signal.signal(signal.SIGTERM, _exit)
    try:
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") if log else open(os.devnull, "w") as file:
            output = file if log else None
            # Inheritable files are passed on: the lock of the folder.
            done = subprocess.run(command, env=environment, stdout=output, stderr=output, close_fds=False)
    finally:
        signal.signal(signal.SIGTERM, before)
    if done.returncode:
        raise UserError(f"train_net.py failed (status {done.returncode}); see {log or 'its output above'}")


def _exit(number: int, frame: object) -> None:
    sys.exit(128 + number)  # the status that a shell gives a process that a signal has ended


def last_value(metrics: Path) -> float:
    """Return the last box AP in a ``metrics.json``."""
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    values = [record[METRIC] for record in records if METRIC in record]
    if not values:
        raise UserError(f"{metrics} has no {METRIC}; the training was not evaluated")
    return values[-1]


def read_json(path: Path) -> dict:
    """Read a file of :func:`write_json`.

    Raises:
        UserError: it is damaged.
    """
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); remove it and run the command again") from error


def write_json(path: Path, content: dict) -> None:
    """Write a file for :func:`read_json`; NaN becomes null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, json.dumps(_without_nan(content), indent=1))


def _without_nan(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make a folder and lock it until this process, and every training that it has started, has ended.

    Raises:
        UserError: another process has locked it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror})") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"{folder} is in use by another command or by a training that it left") from error
        # A lock lasts as long as any process holds the open file.
        os.set_inheritable(lock.fileno(), True)
        yield
