#!/usr/bin/env python3
"""Measures operators against a reference, or whole models side by side.

    python tools/benchmark.py --component htd_second_stage --repeat 2
    python tools/benchmark.py --component htc_forms --images 2 --device cuda
    python tools/benchmark.py --config-file configs/htd/htd_r50_fpn_1x.py \\
        --config-file configs/baselines/faster_rcnn_r50_fpn_1x.py --train

Models have random weights. In the components htc_* and tsd_* their work does not depend on these: all have
the same 1000 proposals and keep the same 100 detections, and in training each stage learns from 512 RoIs per
image, 128 of them positive. In tood_* and salt_* no score passes the threshold.

With --config-file it does depend on them: how many RoIs pass the score threshold is not what it would be in
a trained model. Almost all do with HTD, whose second stage then costs most; with the override

    model.roi_heads.postprocessing.score_threshold=1

none do. A trained model lies in between, see the component htd_second_stage.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch

from htd.benchmark.detectors import COMPONENTS
from htd.benchmark.models import Settings, compare_configs
from htd.errors import UserError, run_cli

SMALLEST = 32  # pixels per side: the stride of the backbones


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
    parser.add_argument("--images", type=int, default=1, help="batch size of whole models")
    parser.add_argument("--rois", type=int, default=1000, help="RoIs of single operators")
    parser.add_argument("--train", action="store_true", help="measure a training step, too")
    parser.add_argument("--repeat", type=int, default=5, help="rounds after the first; medians are printed")
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or, for a certain GPU, cuda:1")
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="overrides of all configs")
    args = parser.parse_intermixed_args(arguments)
    for name in ("images", "rois", "repeat", "threads"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} is {getattr(args, name)}; it has to be at least 1")
    if min(args.size) < SMALLEST:
        raise UserError(f"--size is {args.size[0]} {args.size[1]}; both have to be at least {SMALLEST}")
    if args.component and args.component not in COMPONENTS:
        raise UserError(f"--component {args.component} is unknown; choose from {', '.join(COMPONENTS)}")
    return args


def find_device(name: str) -> torch.device:
    """Return the CPU or GPU of a name.

    Raises:
        UserError: there is none.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device is {name}; write cpu, cuda or, for a certain GPU, cuda:1")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device is {name}, but torch finds no such GPU")
    return device


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    args = parse_arguments(arguments)
    device = find_device(args.device)
    torch.set_num_threads(args.threads)
    settings = Settings(
        size=tuple(args.size),
        images=args.images,
        rois=args.rois,
        repeat=args.repeat,
        threads=args.threads,
        device=device,
        overrides=tuple(args.overrides),
    )
    if args.component:
        table = COMPONENTS[args.component](settings)
    else:
        table = compare_configs(args.config_file, settings, args.train)
    machine = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {args.threads} thread(s)"
    )
    subject = args.component or "configs"
    print(f"{subject}: {args.images} x {args.size[0]} x {args.size[1]} pixels, {machine},", end=" ")
    print(f"torch {torch.__version__}, medians of {args.repeat} rounds\n{table}")


if __name__ == "__main__":
    run_cli(main)
