#!/usr/bin/env python3
"""Draws semantic maps for HTC from the instance masks of a COCO file.

    python tools/draw_semantic_maps.py --json train.json --output maps/train

A map has the name of its image and the values 0..K-1 for the classes, K for the background, and 255, no
class, for crowd regions. Called again it goes on where it stopped.
"""

import argparse

from detectron2.utils.logger import setup_logger

from htd.data import draw_semantic_maps
from htd.errors import run_cli


def parse_arguments():
    """Return the flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", required=True, metavar="FILE", help="COCO annotations with masks")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="where the maps are written")
    return parser.parse_args()


def command():
    """Draw the maps and say how to train with them."""
    flags = parse_arguments()
    logger = setup_logger(name="htd")
    folder = draw_semantic_maps(flags.json, flags.output)
    logger.info(
        "to train with them: --config-file configs/htc/htc_r50_fpn_1x_instance_maps.py "
        "dataloader.train.dataset.semantic_root=%s",
        folder.absolute(),
    )


if __name__ == "__main__":
    run_cli(command)
