#!/usr/bin/env python3
"""Compares small forms of the five systems, each with the detector that it changes, on the toy data.

    python tools/compare.py --iterations 300 --seeds 0 1
    python tools/compare.py --iterations 300 --seeds 0 1 --time-again

Every detector is trained on the same number of images, at each strength of the misalignment and with each
seed. All trainings of a strength see the same data, and images have the same layout at all strengths: the
seeds of the trainings change weights and order alone. The output folder then holds compare.md (the table),
compare.csv and compare.json (all figures), compare.png (the plot); they are renewed after each training.
They show what the latest call names and nothing else: after one with --systems salt, SALT-Net and GFL alone.
All other trainings stay in the folder, and a call that names them shows them again.

A call that was stopped goes on where it was when it is given again, and one with more systems, strengths or
seeds makes only those. Overrides (key=value) are given to all configs; they stand before the flags.

Times are measured at the end, of all detectors of the call in turns: as trained with the last of the
strengths and the first of the seeds, and on data of that strength. Times of different measurements do not
compare, so a table shows the latest in times.json with this strength, this seed, this --time-images, this
--time-rounds and all detectors of the call, and if there is none, all are measured. With --time-again they
are in any case, for a machine that was busy.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
from detectron2.utils.logger import setup_logger

from compare_cells import PAIRS, Cell, all_cells, check_choice, forms_of
from compare_measure import measure_cell, seconds_per_image, trained_config
from compare_report import markdown, plot, table_csv
from compare_times import add_times, known_times
from compare_train import Settings, any_trained, make_data, train_cell
from htd.engine.setup import hide_known_warnings
from htd.errors import UserError, run_cli
from runs import alone_in, read_json, write_json, write_whole

logger = logging.getLogger("htd.compare")
RESULT = "result.json"
TIMES = "times.json"


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--output", default="output/compare", metavar="FOLDER", help="default: %(default)s")
    add("--iterations", type=int, default=300, metavar="N", help="of each training, default: %(default)s")
    add("--systems", nargs="+", default=list(PAIRS), metavar="NAME", help=f"of {', '.join(PAIRS)}")
    add("--strengths", nargs="+", type=float, default=[0.0, 0.5], metavar="S", help="default: 0 0.5")
    add("--seeds", nargs="+", type=int, default=[0, 1], metavar="SEED", help="of trainings, default: 0 1")
    add("--train", type=int, default=400, metavar="N", help="training images, default: %(default)s")
    add("--val", type=int, default=100, metavar="N", help="validation images, default: %(default)s")
    add("--time-again", action="store_true", help="measure the time of an image once more")
    add("--time-images", type=int, default=20, metavar="N", help="images of a round, default: %(default)s")
    add("--time-rounds", type=int, default=5, metavar="N", help="medians of so many, default: %(default)s")
    add("overrides", nargs="*", metavar="key=value", help="overrides of all configs, before flags")
    flags = parser.parse_intermixed_args(arguments)
    flags.output = Path(flags.output).resolve()
    for name in ("iterations", "train", "val", "time_images", "time_rounds"):
        if getattr(flags, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(flags, name)}: it has to be at least 1")
    check_choice(flags.systems, flags.strengths, flags.seeds, flags.overrides)
    return flags


def check_settings(output: Path, settings: Settings) -> None:
    """Keep the settings, and refuse others once there is a checkpoint or a result in the folder.

    Raises:
        UserError: the folder holds trainings of other settings.
    """
    record = output / "settings.json"
    begun = any_trained(output) or any((output / "cells").rglob(RESULT))
    known = read_json(record) if begun and record.is_file() else None
    if known not in (None, settings._asdict()):
        raise UserError(
            f"--output {output} holds trainings with {known}, not with {settings._asdict()}: give the same "
            "flags and overrides, or another --output"
        )
    if known is None:
        write_json(record, settings._asdict())


def finished(cells: Sequence[Cell], output: Path) -> dict[Cell, dict]:
    """Return what was measured of those cells that are finished."""
    files = {cell: result_file(cell, output) for cell in cells}
    return {cell: read_json(file) for cell, file in files.items() if file.is_file()}


def result_file(cell: Cell, output: Path) -> Path:
    """Return the file that makes a cell a finished one."""
    return cell.folder(output) / RESULT


def make_cells(cells: Sequence[Cell], output: Path, settings: Settings, report: Callable[[], None]) -> None:
    """Train and measure the cells that are not finished, and report after each."""
    left = [cell for cell in cells if not result_file(cell, output).is_file()]
    logger.info("%d of %d trainings are finished", len(cells) - len(left), len(cells))
    start = time.perf_counter()
    for done, cell in enumerate(left, 1):
        train_cell(cell, output, settings)
        result = measure_cell(cell, output, make_data(output, cell.strength, settings))
        write_json(result_file(cell, output), result)
        report()
        elapsed = time.perf_counter() - start
        logger.info(
            "%d of %d: %s: box AP %.1f, Pearson %.3f of %d; %s elapsed, about %s remain",
            len(cells) - len(left) + done,
            len(cells),
            cell,
            result["AP"],
            *(result["correlation"]["0.1"][name] for name in ("pearson", "n")),
            timedelta(seconds=round(elapsed)),
            timedelta(seconds=round(elapsed / done * (len(left) - done))),
        )


def measure_times(flags: argparse.Namespace, settings: Settings) -> None:
    """Measure the times of an image for a call, unless they are known and not asked for again."""
    file, setup, forms = flags.output / TIMES, time_setup(flags), forms_of(flags.systems)
    if known_times(file, setup, forms) and not flags.time_again:
        return
    logger.info("time of an image: %d images, %d rounds", flags.time_images, flags.time_rounds)
    data = make_data(flags.output, setup["strength"], settings)
    cells = [Cell(form, setup["strength"], setup["seed"]) for form in forms]
    configs = [trained_config(cell, flags.output, data) for cell in cells]
    add_times(file, setup, forms, seconds_per_image(configs, flags.time_images, flags.time_rounds))


def time_setup(flags: argparse.Namespace) -> dict[str, float]:
    """Return what measurements of time have to agree in, besides the machine."""
    setup = {"strength": flags.strengths[-1], "seed": flags.seeds[0]}
    return setup | {"images": flags.time_images, "rounds": flags.time_rounds}


def write_report(cells: Sequence[Cell], flags: argparse.Namespace, settings: Settings) -> None:
    """Write table and plot of the cells that are finished."""
    output, results = flags.output, finished(cells, flags.output)
    times = known_times(output / TIMES, time_setup(flags), forms_of(flags.systems))
    seconds = times.get("seconds", {})
    pairs = [PAIRS[name] for name in flags.systems]
    write_whole(output / "compare.md", markdown(results, pairs, flags.strengths, seconds).encode())
    write_whole(output / "compare.csv", table_csv(results, seconds).encode())
    write_whole(output / "compare.png", plot(results, pairs, flags.strengths))
    each = [{"config": c.form.config, "strength": c.strength, "seed": c.seed} | r for c, r in results.items()]
    write_json(output / "compare.json", {"settings": settings._asdict(), "times": times, "cells": each})


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, measure, and write table and plot."""
    flags = parse_arguments(arguments)
    torch.set_num_threads(1)
    hide_known_warnings()
    setup_logger(name=logger.name)
    output, settings = flags.output, Settings(flags.iterations, flags.train, flags.val, flags.overrides)
    cells = all_cells(flags.systems, flags.strengths, flags.seeds)
    report = partial(write_report, cells, flags, settings)
    with alone_in(output):
        check_settings(output, settings)
        make_cells(cells, output, settings, report)
        measure_times(flags, settings)
        report()
    logger.info("table, figures and plot are in %s: compare.md, .csv, .json, .png", output)


if __name__ == "__main__":
    run_cli(main)
