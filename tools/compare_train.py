"""Trains one cell of the comparison, or goes on with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from compare_cells import Cell
from htd.data.toy import make_toy_data
from runs import train_net

FINAL = "model_final.pth"
_LATEST = "last_checkpoint"  # names the one to go on with
_CHECKPOINTS = 4  # of a training, so that little is lost if it is stopped


class Settings(NamedTuple):
    """What all cells of a table have in common.

    Attributes:
        iterations: of each training; with the batch of the configs this is the number of images.
        train: training images.
        val: validation images.
        overrides: changes of all configs.
    """

    iterations: int
    train: int
    val: int
    overrides: list[str]


def make_data(output: Path, strength: float, settings: Settings) -> Path:
    """Make the toy data of a strength, unless they are there; return the folder above them.

    All trainings of a strength see the same data, and the layout of the images is the same at all strengths.
    """
    folder = output / "datasets" / f"strength-{strength:g}"
    make_toy_data(folder / "toy", strength=strength, train=settings.train, val=settings.val, seed=0)
    return folder


def any_trained(output: Path) -> bool:
    """Return whether any training of an output folder has got as far as a checkpoint."""
    files = (output / "cells").rglob("train/*")
    return any(file.name in (FINAL, _LATEST) for file in files)


def train_cell(cell: Cell, output: Path, settings: Settings) -> Path:
    """Train a cell unless that is done; a training that was stopped goes on where it was.

    The seed of the cell gives the weights to begin with and the order of the images.

    Returns:
        The folder of the training.
    """
    folder = cell.folder(output) / "train"
    if (folder / FINAL).is_file():
        return folder
    data = make_data(output, cell.strength, settings)
    arguments = ["--resume"] if (folder / _LATEST).is_file() else []
    arguments += [*settings.overrides, *_lengths(cell, settings.iterations), f"train.seed={cell.seed}"]
    train_net(cell.form.path, folder, data, arguments, log=cell.folder(output) / "train_net.log")
    return folder


def _lengths(cell: Cell, iterations: int) -> Sequence[str]:
    """Return the overrides that set the length and leave out what is measured afterwards."""
    lengths = {
        "train.max_iter": iterations,
        "train.checkpointer.period": max(iterations // _CHECKPOINTS, 1),
        "train.checkpointer.max_to_keep": 1,
        "train.eval_period": 0,
        "train.vis_period": 0,
        "dataloader.evaluator": "null",
    }
    lengths |= {key: int(fraction * iterations) for key, fraction in cell.form.fractions.items()}
    return [f"{key}={value}" for key, value in lengths.items()]
