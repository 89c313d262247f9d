#!/usr/bin/env python3
"""Measures operators against their reference, or whole models side by side.

    python tools/benchmark.py --component roi_align
    python tools/benchmark.py --config-file configs/htd/htd_r50_fpn_1x.py \\
        --config-file configs/baselines/faster_rcnn_r50_fpn_1x.py --train

Whole models have random weights: the RPN fills its proposals, but how many RoIs pass the score threshold is
not what a trained model would have, and parts which see only such RoIs cost accordingly. Almost all do with
HTD, whose second stage is then at its most expensive; with the override

    model.roi_heads.selection.score_threshold=1

none do, with any config, and the two runs enclose the cost of a trained model. What HTD's second stage costs
at shares between, --component htd_second_stage prints. Overrides (key=value) are given to all configs.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

import torch

from benchmark_components import COMPONENTS, Comparison
from benchmark_models import ModelCost, Settings, measure_models
from htd.errors import UserError, run_cli

SMALLEST = 32  # pixels a side: the stride of the backbones


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    subject = parser.add_mutually_exclusive_group(required=True)
    subject.add_argument("--component", metavar="NAME", help=f"one of {', '.join(COMPONENTS)}")
    subject.add_argument(
        "--config-file", action="append", metavar="CONFIG", help="may be given several times"
    )
    parser.add_argument("--size", nargs=2, type=int, default=(800, 1333), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--images", type=int, default=1, help="images of a batch")
    parser.add_argument("--train", action="store_true", help="measure a training step, too")
    parser.add_argument("--repeat", type=int, default=5, help="rounds after the first; medians are printed")
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="overrides of all configs")
    args = parser.parse_intermixed_args(arguments)
    for name in ("images", "repeat", "threads"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} is {getattr(args, name)}: it has to be at least 1")
    if min(args.size) < SMALLEST:
        height, width = args.size
        raise UserError(f"--size is {height} {width}: both have to be at least {SMALLEST}")
    if args.component and args.component not in COMPONENTS:
        raise UserError(f"there is no component {args.component!r}: choose from {', '.join(COMPONENTS)}")
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    args = parse_arguments(arguments)
    device = find_device(args.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {args.threads} thread(s)"
    torch.set_num_threads(args.threads)
    if args.component:
        comparisons = COMPONENTS[args.component](args.repeat, device)
        print(f"{args.component}: {name}, torch {torch.__version__}, medians of {args.repeat} rounds")
        print_table(*component_table(comparisons))
        return
    settings = Settings(
        size=tuple(args.size),
        images=args.images,
        training=args.train,
        repeat=args.repeat,
        threads=args.threads,
        device=args.device,
        overrides=tuple(args.overrides),
    )
    costs = measure_models(args.config_file, settings)
    batch = f"{args.images} x {args.size[0]} x {args.size[1]}"
    print(f"{batch} pixels, {name}, torch {torch.__version__}, medians of {args.repeat} rounds")
    print_table(*model_table(costs))


def find_device(name: str) -> torch.device:
    """Return the device of a name.

    Raises:
        UserError: there is none of that name, or it is neither a CPU nor a GPU of CUDA's.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"--device is {name!r}: write cpu, cuda or, for a certain GPU, cuda:1")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device is {name}, but torch finds no such GPU")
    return device


def component_table(comparisons: Sequence[Comparison]) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the table of single operators."""
    head = ["case", "reference ms", "ours ms", "ratio", "reference MB", "ours MB"]
    rows = [
        [
            row.case,
            _number(1e3 * row.reference_seconds),
            _number(1e3 * row.seconds),
            f"{row.reference_seconds / row.seconds:.1f}",
            _number(row.reference_bytes / 1e6),
            _number(row.bytes / 1e6),
        ]
        for row in comparisons
    ]
    return head, rows


def model_table(costs: Sequence[ModelCost]) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the table of whole models; a batch a figure."""
    head = ["config", "M params", "G mult-adds", "inference ms", "MB", "training ms", "MB"]
    rows = [
        [
            cost.config_file,
            f"{cost.parameters / 1e6:.2f}",
            f"{cost.multiply_adds / 1e9:.2f}",
            _number(1e3 * cost.seconds),
            _number(cost.bytes / 1e6),
            "-" if cost.training_seconds is None else _number(1e3 * cost.training_seconds),
            "-" if cost.training_bytes is None else _number(cost.training_bytes / 1e6),
        ]
        for cost in costs
    ]
    return head, rows


def print_table(head: list[str], rows: list[list[str]]) -> None:
    """Print columns: the first to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in [head, ["-" * width for width in widths], *rows]:
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        print("  ".join(cells))


def _number(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


if __name__ == "__main__":
    run_cli(main)
