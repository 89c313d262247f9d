#!/usr/bin/env python3
"""Draws what a trained model finds on images, and what it looks at.

    python tools/visualize.py --config-file output/mine/config.yaml \\
        --checkpoint output/mine/model_final.pth --input street.jpg photographs/ --output pictures

Of each image NAME it writes NAME_detections.jpg and, of models that have a drawer in htd.visualize.drawers, a
picture under that drawer's name, such as NAME_tsd.jpg. Older pictures of the same names are replaced.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import urlparse

from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig, OmegaConf
from torch import nn

from htd.checkpoint.training import TrainingCheckpointer
from htd.checkpoint.weights import check_weights_file, load_whole
from htd.data import read_categories, read_classes, read_image
from htd.engine.config import build, load_config
from htd.engine.config.own_data import class_counts
from htd.engine.run import build_model
from htd.engine.setup import hide_known_warnings, usable_device
from htd.errors import UserError, run_cli
from htd.visualize import (
    draw_model,
    find_images,
    make_folder,
    picture_names,
    registered_names,
    write_picture,
)

logger = logging.getLogger("htd.visualize")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--config-file", required=True, metavar="FILE", help="a leaf under configs/, or a saved config.yaml")
    add("--checkpoint", required=True, metavar="FILE", help="weights of that model, trained or converted")
    add("--input", required=True, nargs="+", action="extend", metavar="PATH", help="images, folders of them")
    add("--output", default="output/pictures", metavar="FOLDER", help="default: %(default)s")
    add("--score-threshold", type=float, default=0.5, metavar="S", help="least score, default: %(default)s")
    add("--max-objects", type=int, default=100, metavar="N", help="objects drawn an image, the best")
    add("--max-regions", type=int, default=3, metavar="N", help="objects whose regions are looked at closer")
    add("overrides", nargs="*", metavar="key=value", help="set a key of the config, e.g. train.device=cpu")
    flags = parser.parse_intermixed_args(arguments)
    # --input takes all that follows it, also overrides at the end of the line.
    after = [value for value in flags.input if "=" in value and not Path(value).exists()]
    flags.input = [value for value in flags.input if value not in after]
    flags.overrides += after
    if not flags.input:
        parser.error("--input names no image and no folder")
    if not 0 <= flags.score_threshold <= 1 or min(flags.max_objects, flags.max_regions) < 1:
        raise UserError(
            "--score-threshold has to be between 0 and 1, --max-objects and --max-regions at least 1"
        )
    return flags


def load_model(config: DictConfig, config_file: str, checkpoint: str) -> nn.Module:
    """Build the model of a config and load a checkpoint that has to hold all of it.

    Raises:
        UserError: the device or the file is not there, or the file does not fit.
    """
    usable_device(config.train.device)
    if not urlparse(checkpoint).scheme and not Path(checkpoint).is_file():
        raise UserError(
            f"--checkpoint {checkpoint} is not a file: name the weights, such as model_final.pth of a run"
        )
    check_weights_file(checkpoint, config_file)
    model = build_model(config)
    load_whole(TrainingCheckpointer(model), checkpoint, everything=False)
    return model


def class_names(config: DictConfig) -> list[str]:
    """Return the names of the model's classes as far as the config's data sets tell them, else none."""
    names: list[str] = []
    for part in ("test", "train"):
        names = names or _names_of(OmegaConf.select(config, f"dataloader.{part}.dataset"))
    counts = {count for _, count in class_counts(config.model)}
    if names and counts and len(names) not in counts:
        logger.warning("the config's data have %d classes, the model has another number", len(names))
        names = []
    if not names:
        logger.info("the names of the classes are not known: they are shown by their numbers")
    return names


def _names_of(dataset: object) -> list[str]:
    """Return the class names of a data set's config node; none if it does not tell them here."""
    if not isinstance(dataset, DictConfig) or not dataset.get("name"):
        return []
    names = registered_names(dataset.name)
    readers = {"json_file": read_categories, "classes_file": _described}
    for key, read in readers.items():
        if not names and dataset.get(key):
            try:
                names = read(dataset[key])
            except UserError:  # the data need not be on the machine that draws
                continue
    return names


def _described(classes_file: str) -> list[str]:
    return read_classes(classes_file).names


def draw_images(
    flags: argparse.Namespace, config: DictConfig, model: nn.Module, images: Sequence[Path]
) -> Iterable[Path]:
    """Draw image after image; return the pictures' files while they are written."""
    names, folder = class_names(config), make_folder(flags.output)
    kept = {image.resolve() for image in images}
    for image, name in zip(images, picture_names(images), strict=True):
        image_rgb = read_image(str(image), "RGB")
        height, width = image_rgb.shape[:2]
        # A mapper for each image: one that keeps what it has read would keep all of them.
        mapper = build(config.dataloader.test.mapper, "dataloader.test.mapper")
        inputs = mapper({"file_name": str(image), "image_id": name, "height": height, "width": width})
        pictures = draw_model(
            model,
            inputs,
            image_rgb,
            names,
            score_threshold=flags.score_threshold,
            max_objects=flags.max_objects,
            max_regions=flags.max_regions,
        )
        for drawer, picture in pictures.items():
            path = folder / f"{name}_{drawer}.jpg"
            write_picture(path, picture, kept)
            yield path


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw all images."""
    flags = parse_arguments(arguments)
    for name in ("fvcore", "htd"):
        setup_logger(name=name)
    hide_known_warnings()
    config = load_config(flags.config_file, flags.overrides)
    if OmegaConf.select(config, "dataloader.test.mapper") is None:
        raise UserError(
            f"{flags.config_file} has no dataloader.test.mapper, which prepares images: take a leaf under "
            "configs/"
        )
    images = find_images(flags.input)
    model = load_model(config, flags.config_file, flags.checkpoint)
    for count, path in enumerate(draw_images(flags, config, model, images), 1):
        logger.info("%d: %s", count, path)


if __name__ == "__main__":
    run_cli(main)
