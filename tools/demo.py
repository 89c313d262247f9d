"""The demo: make toy data, train a small HTD, evaluate it twice, draw what it finds."""

import argparse
import json
import shutil
import time
from pathlib import Path

from detectron2.utils.logger import setup_logger

from htd.benchmark import ROOT
from htd.benchmark.training_runs import METRIC, last_value, run_training
from htd.data.toy import make_toy_data
from htd.errors import UserError, run_cli
from htd.visualize import draw_results


def parse_arguments():
    """Return the flags."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", default="output/demo", help="folder for everything the demo makes")
    parser.add_argument("--config-file", default=str(ROOT / "configs" / "demo" / "htd_toy.py"))
    parser.add_argument("--strength", type=float, default=0.5, help="of the toy data, 0..1")
    parser.add_argument("--least-ap", type=float, default=40.0, help="box AP in percent to be reached")
    parser.add_argument("--pictures", type=int, default=12, help="validation images to draw")
    parser.add_argument("overrides", nargs="*", help="changes of the config, such as train.max_iter=100")
    return parser.parse_args()


def command():
    """Run the steps one after the other and say where all of it lies."""
    flags, start = parse_arguments(), time.perf_counter()
    logger = setup_logger(name="htd")
    output = Path(flags.output).resolve()
    toy, run, again, pictures = (output / name for name in ("datasets/toy", "train", "eval-only", "pictures"))

    logger.info("step 1 of 4: toy data")
    make_toy_data(toy, strength=flags.strength)

    logger.info("step 2 of 4: training, with an evaluation at its end")
    run_training(flags.config_file, run, toy.parent, flags.overrides)
    trained = last_value(run / "metrics.json")

    logger.info("step 3 of 4: evaluation of the saved checkpoint with --eval-only")
    weights = run / "model_final.pth"
    evaluation = ["--eval-only", *flags.overrides, f"train.init_checkpoint={weights}"]
    run_training(flags.config_file, again, toy.parent, evaluation)
    evaluated = json.loads((again / "evaluation.json").read_text())[METRIC]
    if evaluated != trained:
        raise UserError(f"{weights} gives box AP {evaluated}, at the end of the training it was {trained}")

    logger.info("step 4 of 4: pictures of ground truth beside predictions")
    shutil.rmtree(pictures, ignore_errors=True)
    results = again / "inference" / "coco_instances_results.json"
    truth = toy / "annotations" / "instances_val.json"
    draw_results(truth, toy / "val", results, pictures, count=flags.pictures)

    report = {
        "toy data": toy,
        "log, metrics.json, TensorBoard": run,
        "weights": weights,
        "detections": results,
        "pictures": pictures,
    }
    lines = "".join(f"\n  {what:<32}{path}" for what, path in report.items())
    minutes = (time.perf_counter() - start) / 60
    logger.info("box AP %.2f, the same from the saved checkpoint; %.1f minutes%s", trained, minutes, lines)
    if trained < flags.least_ap:
        raise UserError(f"box AP {trained:.2f} is below the {flags.least_ap:g} that the demo is to reach")


if __name__ == "__main__":
    run_cli(command)
