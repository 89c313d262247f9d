#!/usr/bin/env python3
"""Compares small forms of the five systems, each with the detector that it changes, on the toy data.

    python tools/compare.py --iterations 300 --seeds 0 1
    python tools/compare.py --iterations 300 --seeds 0 1 --time-again

Every detector is trained on the same number of images, at each strength of the misalignment and with each
seed. All trainings of a strength see the same data, and the images have the same layout at all strengths. The
output folder then has compare.md (the table), compare.csv and compare.json (all figures), compare.png (the
plot), written after each training; they show the systems, strengths and seeds of the latest command.

A command that was stopped continues when it is given again, and one with more systems, strengths or seeds
trains only those. Overrides (key=value) change all configs; they stand before the flags.

The times per image are measured at the end, of all detectors of the command in turns, at the last of the
strengths and the first of the seeds. Times that were measured so before are shown again; --time-again
measures once more, for example after the machine was busy.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import torch
from detectron2.utils.logger import setup_logger

from htd.benchmark.comparison import PAIRS, Comparison, Lengths, Training, all_trainings
from htd.benchmark.comparison_report import markdown, plot, table_csv
from htd.benchmark.training_runs import locked, write_file, write_json
from htd.engine.config import load_config
from htd.engine.setup import hide_known_warnings
from htd.errors import UserError, run_cli

logger = logging.getLogger("htd.compare")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read and check the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--output", default="output/compare", metavar="FOLDER", help="default: %(default)s")
    add("--iterations", type=int, default=300, metavar="N", help="of each training, default: %(default)s")
    add("--systems", nargs="+", default=list(PAIRS), metavar="NAME", help=f"of {', '.join(PAIRS)}")
    add("--strengths", nargs="+", type=float, default=[0.0, 0.5], metavar="S", help="default: 0 0.5")
    add("--seeds", nargs="+", type=int, default=[0, 1], metavar="SEED", help="default: 0 1")
    add("--train", type=int, default=400, metavar="N", help="training images, default: %(default)s")
    add("--val", type=int, default=100, metavar="N", help="validation images, default: %(default)s")
    add("--time-again", action="store_true", help="measure the time per image once more")
    add("--time-images", type=int, default=20, metavar="N", help="images of a round, default: %(default)s")
    add("--time-rounds", type=int, default=5, metavar="N", help="rounds, default: %(default)s")
    add("overrides", nargs="*", metavar="key=value", help="overrides of all configs, before flags")
    flags = parser.parse_intermixed_args(arguments)
    for name in ("iterations", "train", "val", "time_images", "time_rounds"):
        if getattr(flags, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(flags, name)}; it has to be at least 1")
    for name in flags.systems:
        if name not in PAIRS:
            raise UserError(f"--systems: {name} is unknown; choose from {', '.join(PAIRS)}")
    if any(not 0 <= s <= 1 for s in flags.strengths) or any(seed < 0 for seed in flags.seeds):
        raise UserError("--strengths have to be between 0 and 1, and --seeds 0 or more")
    for name in ("systems", "strengths", "seeds"):
        if len(set(getattr(flags, name))) < len(getattr(flags, name)):
            raise UserError(f"--{name} has a value twice")
    flags.forms = [form for name in flags.systems for form in PAIRS[name]]
    for form in flags.forms:  # a wrong override is found before anything is trained
        load_config(str(form.path), flags.overrides)
    flags.time_setup = {"strength": flags.strengths[-1], "seed": flags.seeds[0]}
    flags.time_setup |= {"images": flags.time_images, "rounds": flags.time_rounds}
    return flags


def train_all(comparison: Comparison, trainings: Sequence[Training], flags: argparse.Namespace) -> None:
    """Train and measure what is not finished, and write the report after each training."""
    remaining = [training for training in trainings if not comparison.result_file(training).is_file()]
    count, start = len(trainings) - len(remaining), time.perf_counter()
    logger.info("%d of %d trainings are finished", count, len(trainings))
    for done, training in enumerate(remaining, 1):
        comparison.train(training)
        result = comparison.measure(training)
        write_report(comparison, trainings, flags)
        elapsed = time.perf_counter() - start
        left = timedelta(seconds=round(elapsed / done * (len(remaining) - done)))
        scores = f"box AP {result['AP']:.1f}, Pearson {result['correlation']['0.1']['pearson']:.3f}"
        logger.info("%d of %d: %s: %s; about %s left", count + done, len(trainings), training, scores, left)


def write_report(comparison: Comparison, trainings: Sequence[Training], flags: argparse.Namespace) -> None:
    """Write table, figures and plot of the finished trainings."""
    output, results = comparison.output, comparison.results(trainings)
    times = comparison.times(flags.time_setup, flags.forms)
    seconds = times.get("seconds", {})
    pairs = [PAIRS[name] for name in flags.systems]
    write_file(output / "compare.md", markdown(results, pairs, flags.strengths, seconds).encode())
    write_file(output / "compare.csv", table_csv(results, seconds).encode())
    write_file(output / "compare.png", plot(results, pairs, flags.strengths))
    cells = [
        {"config": t.form.config, "strength": t.strength, "seed": t.seed} | r for t, r in results.items()
    ]
    report = {"settings": asdict(comparison.lengths), "times": times, "cells": cells}
    write_json(output / "compare.json", report)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, measure, and write the report."""
    flags = parse_arguments(arguments)
    torch.set_num_threads(1)
    hide_known_warnings()
    setup_logger(name=logger.name)
    lengths = Lengths(flags.iterations, flags.train, flags.val, flags.overrides)
    comparison = Comparison(Path(flags.output).resolve(), lengths)
    trainings = all_trainings(flags.systems, flags.strengths, flags.seeds)
    with locked(comparison.output):
        comparison.check_lengths()
        train_all(comparison, trainings, flags)
        if flags.time_again or not comparison.times(flags.time_setup, flags.forms):
            comparison.measure_times(flags.time_setup, flags.forms)
        write_report(comparison, trainings, flags)
    logger.info("table, figures and plot are in %s: compare.md, .csv, .json, .png", comparison.output)


if __name__ == "__main__":
    run_cli(main)
