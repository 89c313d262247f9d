"""Trainings that a tool starts, what they leave behind, and files that are there whole or not at all."""

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
from typing import TextIO

from htd.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
METRIC = "bbox/AP"


def train_net(
    config_file: str | Path, folder: Path, datasets: Path, arguments: Sequence[str], log: Path | None = None
) -> None:
    """Run train_net.py in a process of its own, which is ended when this one is told to end.

    If this one is killed, the training goes on; it still keeps others out of a folder of :func:`alone_in`.

    Args:
        config_file: the config.
        folder: for what the run writes; emptied before, unless ``--resume`` is among the arguments.
        datasets: the folder that relative paths of data start from.
        arguments: further ones of train_net.py.
        log: file for what the process prints, which is added to it; None to print it.

    Raises:
        UserError: the process failed.
    """
    if "--resume" not in arguments:
        shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, str(ROOT / "train_net.py"), "--config-file", str(config_file)]
    command += [*arguments, f"train.output_dir={folder}"]
    # Threads that wait for each other lose more than they gain as soon as another program runs.
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "DETECTRON2_DATASETS": str(datasets)}
    if log is None:
        status, where = _run(command, environment, None), "what it wrote above says why"
    else:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as lines:
            status = _run(command, environment, lines)
        where = f"the end of {log} says why"
    if status:
        raise UserError(f"train_net.py ended with status {status}; {where}")


def _run(command: Sequence[str], environment: dict[str, str], lines: TextIO | None) -> int:
    # subprocess.run ends the process when an exception comes up, and SIGTERM makes none by itself.
    before = signal.signal(signal.SIGTERM, _exit)
    try:
        # What is inheritable is passed on: the lock of alone_in.
        done = subprocess.run(command, env=environment, stdout=lines, stderr=lines, close_fds=False)
    finally:
        signal.signal(signal.SIGTERM, before)
    return done.returncode


def _exit(number: int, frame: object) -> None:
    sys.exit(128 + number)  # as a shell says it of a process that a signal has ended


def last_value(path: Path) -> float:
    """Return the last box AP in a metrics file."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    values = [record[METRIC] for record in records if METRIC in record]
    if not values:
        raise UserError(f"{path} holds no {METRIC}: the training was not evaluated")
    return values[-1]


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there with all of its content, or as it was before.

    Raises:
        UserError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(content)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def read_json(path: Path) -> dict:
    """Read a file of :func:`write_json`.

    Raises:
        UserError: it is damaged.
    """
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): remove it, and what it held is made anew") from error


def write_json(path: Path, content: dict) -> None:
    """Write a file for :func:`read_json`; what is not a number becomes null."""
    write_whole(path, json.dumps(_defined(content), indent=1).encode())


def _defined(value: object) -> object:
    if isinstance(value, dict):
        return {key: _defined(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes that ask for it out of a folder, which is made if need be.

    It is free again when this process and each training that it has started meanwhile have ended.

    Raises:
        UserError: another process is at work there, or it cannot be written.
    """
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"another call is at work in {folder}, or a training that a killed call has left: wait for "
                "it, or end it first"
            ) from error
        # A lock lasts as long as any process holds the open file, and a training takes it along.
        os.set_inheritable(lock.fileno(), True)
        yield


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}); make room, or name another --output"
        ) from error
