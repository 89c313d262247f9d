#!/usr/bin/env python3
"""Converts detections on OpenImages between COCO's results, the published text and the challenge's CSV.

    python tools/convert_open_images_results.py IN OUT --classes challenge-2019-classes-description-500.csv

IN is a list of results in COCO's format (.json), which needs --annotations, the COCO file of the same images,
or the text that an evaluation has written (.txt). OUT is such a text (.txt), which
tools/evaluate_open_images.py scores, or the CSV that the challenge's own tool scores (.csv).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from detectron2.utils.logger import setup_logger

from htd.data import read_classes
from htd.errors import UserError, run_cli
from htd.evaluation import read_coco_results, read_detections, write_challenge_csv, write_detections


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("input", metavar="IN", help=".json or .txt")
    parser.add_argument("output", metavar="OUT", help=".txt or .csv")
    parser.add_argument("--classes", required=True, metavar="FILE", help="OpenImages' class descriptions")
    parser.add_argument(
        "--annotations", metavar="FILE", help="COCO file whose images and categories .json names"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Convert one file."""
    args = parse_arguments(arguments)
    logger = setup_logger(name="htd")
    source, target = Path(args.input).suffix, Path(args.output).suffix
    if source not in (".json", ".txt") or target not in (".txt", ".csv"):
        raise UserError(
            f"{args.input} to {args.output}: detections are converted from .json or .txt to .txt or .csv; "
            "rename the files so"
        )
    classes = read_classes(Path(args.classes).absolute())
    if source == ".json":
        if args.annotations is None:
            raise UserError(
                f"results {args.input} in COCO's format need --annotations, the file of their images"
            )
        numbers = {name: number for number, name in enumerate(classes.names)} | classes.numbers()
        detections = read_coco_results(args.input, args.annotations, numbers)
    else:
        detections = read_detections(args.input)
    if target == ".csv":
        write_challenge_csv(args.output, detections, classes.labels)
    else:
        write_detections(args.output, detections)
    logger.info("%d detections of %d images: %s", len(detections.table), len(detections.ids), args.output)


if __name__ == "__main__":
    run_cli(main)
