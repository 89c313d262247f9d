#!/usr/bin/env python3
"""Measures operators against their reference, parts of models, or whole models side by side.

    python tools/benchmark.py --component roi_align
    python tools/benchmark.py --component htc_forms --images 2 --device cuda
    python tools/benchmark.py --config-file configs/htd/htd_r50_fpn_1x.py \\
        --config-file configs/baselines/faster_rcnn_r50_fpn_1x.py --train

Whole models have random weights: the RPN fills its proposals, but how many RoIs pass the score threshold is
not what a trained model would have, and parts which see only such RoIs cost accordingly. Almost all do with
HTD, whose second stage is then at its most expensive; with the override

    model.roi_heads.selection.score_threshold=1

none do, with any two-stage config, and the two runs enclose the cost of a trained model. Scores of dense
detectors begin below their threshold, so nothing is suppressed. What HTD's second stage costs at shares
between, --component htd_second_stage prints. Overrides (key=value) are given to all configs.

The components htc_memory, htc_inference, htc_forms, tsd_inference and tsd_training are whole models, too, but
what they have to do does not depend on their weights: all get the same 1000 proposals and keep the same 100
detections, and in training each of their stages learns from 512 RoIs an image, of which 128 are positive.
In tood_inference and tood_training the weights are random, and TOOD is measured beside ATSS; salt_inference
and salt_training measure SALT-Net beside GFL, salt_plug_ins_inference and salt_plug_ins_training each dense
detector beside itself with the SALT operator, whose points are spread as those of a trained one would be.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch

from benchmark_components import COMPONENTS
from benchmark_htc import MODEL_COMPONENTS as HTC_COMPONENTS
from benchmark_masks import paste_masks
from benchmark_measure import Comparison
from benchmark_models import ModelCost, Settings, config_candidates, measure_models
from benchmark_salt import MODEL_COMPONENTS as SALT_COMPONENTS
from benchmark_tables import Table, number, numbers
from benchmark_tood import MODEL_COMPONENTS as TOOD_COMPONENTS
from benchmark_tsd import MODEL_COMPONENTS as TSD_COMPONENTS
from htd.errors import UserError, run_cli

SMALLEST = 32  # pixels a side: the stride of the backbones
LARGER = {
    **HTC_COMPONENTS,
    **TSD_COMPONENTS,
    **TOOD_COMPONENTS,
    **SALT_COMPONENTS,
    "paste_masks": paste_masks,
}  # called with settings and overrides


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    names = (*COMPONENTS, *LARGER)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    subject = parser.add_mutually_exclusive_group(required=True)
    subject.add_argument("--component", metavar="NAME", help=f"one of {', '.join(names)}")
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
    if args.component and args.component not in names:
        raise UserError(f"there is no component {args.component!r}: choose from {', '.join(names)}")
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    args = parse_arguments(arguments)
    device = find_device(args.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {args.threads} thread(s)"
    machine = f"{name}, torch {torch.__version__}, medians of {args.repeat} rounds"
    torch.set_num_threads(args.threads)
    if args.component in COMPONENTS:
        table = component_table(COMPONENTS[args.component](args.repeat, device))
        print(f"{args.component}: {machine}")
    else:
        table = _measure_models(args)
        height, width = args.size
        subject = f"{args.component}: " if args.component else ""
        print(f"{subject}{args.images} x {height} x {width} pixels, {machine}")
    table.print()


def _measure_models(args: argparse.Namespace) -> Table:
    figures = ("inference_bytes", "inference_seconds", "parameters", "multiply_adds")
    if args.train:
        figures += ("training_bytes", "training_seconds")
    settings = Settings(tuple(args.size), args.images, figures, args.repeat, args.threads, args.device)
    if args.component:
        return LARGER[args.component](settings, args.overrides)
    return model_table(measure_models(config_candidates(args.config_file, args.overrides), settings))


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


def component_table(comparisons: Sequence[Comparison]) -> Table:
    """Return the table of single operators."""
    head = ["case", "reference ms", "ours ms", "ratio", "reference MB", "ours MB"]
    rows = [
        [
            row.case,
            *numbers([1e3 * row.reference_seconds, 1e3 * row.seconds]),
            f"{row.reference_seconds / row.seconds:.1f}",
            *numbers([row.reference_bytes / 1e6, row.bytes / 1e6]),
        ]
        for row in comparisons
    ]
    return Table(head, rows)


def model_table(costs: Sequence[ModelCost]) -> Table:
    """Return the table of whole models; a batch a figure."""
    head = ["config", "M params", "G mult-adds", "inference ms", "MB", "training ms", "MB"]
    units = (("inference_seconds", 1e3), ("inference_bytes", 1e-6))
    units += (("training_seconds", 1e3), ("training_bytes", 1e-6))
    rows = []
    for cost in costs:
        row = [cost.label, f"{cost.figures['parameters'] / 1e6:.2f}"]
        row.append(f"{cost.figures['multiply_adds'] / 1e9:.2f}")
        rows.append(row + [number(unit * cost.figures.get(name, float("nan"))) for name, unit in units])
    return Table(head, rows)


if __name__ == "__main__":
    run_cli(main)
