"""Make the toy data set: images whose objects show their class at one place and their extent at another."""

import argparse

from detectron2.utils.logger import setup_logger

from htd.data.toy import make_toy_data, write_open_images
from htd.errors import run_cli


def parse_arguments():
    """Return the flags."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", required=True, help="folder to make, such as datasets/toy")
    parser.add_argument(
        "--strength", type=float, default=0.5, help="0: ordinary shapes, 1: class apart from extent"
    )
    parser.add_argument("--train", type=int, default=400, help="training images")
    parser.add_argument("--val", type=int, default=100, help="validation images")
    parser.add_argument("--seed", type=int, default=0, help="gives the layout, whatever the strength")
    parser.add_argument(
        "--open-images", action="store_true", help="also write the annotations as OpenImages has them"
    )
    return parser.parse_args()


def command():
    """Make the data and say where they lie."""
    flags = parse_arguments()
    logger = setup_logger(name="htd")
    folder = make_toy_data(
        flags.output, strength=flags.strength, train=flags.train, val=flags.val, seed=flags.seed
    )
    if flags.open_images:
        write_open_images(folder)
    logger.info("configs with toy data find them when DETECTRON2_DATASETS=%s", folder.resolve().parent)


if __name__ == "__main__":
    run_cli(command)
