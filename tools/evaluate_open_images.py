#!/usr/bin/env python3
"""Scores a file of detections on the test data of a config with OpenImages, by its evaluator.

    python tools/evaluate_open_images.py --config-file CONFIG DETECTIONS.txt

CONFIG is a leaf on OpenImages, such as configs/demo/faster_rcnn_open_images_toy.py. DETECTIONS has lines
`image x1 y1 x2 y2 score class`: what an evaluation has written, or what
tools/convert_open_images_results.py makes of others. The challenge's own rule in place of the published one:

    ... DETECTIONS.txt dataloader.evaluator.rule._target_=htd.evaluation.OfficialRule
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from detectron2.evaluation import print_csv_format
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig, OmegaConf

from htd.engine.config import build, load_config
from htd.engine.config.builder import locate_target
from htd.errors import UserError, run_cli
from htd.evaluation import OpenImagesEvaluator, read_detections
from htd.files import write_file


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("detections", metavar="DETECTIONS", help="the published text, .txt")
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="overrides of the config")
    parser.add_argument("--config-file", required=True, help="config whose test data and evaluator are used")
    parser.add_argument(
        "--output", metavar="FILE", help="write all results, each class's among them, as JSON"
    )
    return parser.parse_intermixed_args(arguments)


def evaluator_of(config: DictConfig, name: str) -> OpenImagesEvaluator:
    """Build the evaluator of a config and load its test data.

    Raises:
        UserError: it has no such evaluator, or the data are missing or faulty.
    """
    node, dataset = (OmegaConf.select(config, f"dataloader.{part}") for part in ("evaluator", "test.dataset"))
    # Looked at before any data are loaded, which may take long, or not be there.
    target = locate_target(node["_target_"], "dataloader.evaluator") if isinstance(node, DictConfig) else None
    if dataset is None or not (isinstance(target, type) and issubclass(target, OpenImagesEvaluator)):
        raise UserError(f"{name} has no OpenImagesEvaluator with test data; take a config with OpenImages")
    # The file is there already.
    node.output_dir = None
    # Loading the data makes them known to the evaluator.
    build(dataset, "dataloader.test.dataset")
    return build(node, "dataloader.evaluator")


def main(arguments: Sequence[str] | None = None) -> None:
    """Score one file."""
    args = parse_arguments(arguments)
    setup_logger(name="htd")
    setup_logger(name="detectron2")
    config = load_config(args.config_file, args.overrides)
    evaluator = evaluator_of(config, args.config_file)
    results = evaluator.score(read_detections(args.detections))
    print_csv_format(results)
    if args.output:
        write_file(args.output, json.dumps(results, indent=1))


if __name__ == "__main__":
    run_cli(main)
