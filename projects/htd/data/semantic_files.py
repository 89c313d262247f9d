"""Where the semantic maps of a data set lie, and what is said if they do not."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from detectron2.utils.logger import log_first_n

from htd.errors import UserError

RECORD = "semantic_maps.json"
WITHOUT_MAPS = "configs/htc/htc_without_semantic_r50_fpn_1x.py"
_TOOL = "tools/draw_semantic_maps.py"
_DRAWN_MAPS = "configs/htc/htc_r50_fpn_1x_instance_maps.py"


def map_path(folder: Path, file_name: str) -> Path:
    """Return the path of an image's map: its file name with .png, in the same sub-folder.

    Args:
        folder: folder of the maps.
        file_name: of the image, as the annotation file gives it.
    """
    name = Path(file_name)
    return folder / (Path(name.name) if name.is_absolute() else name).with_suffix(".png")


def missing(what: str) -> UserError:
    """Return the error for a map, or a folder of maps, that is not there."""
    return UserError(
        f"{what} does not exist; name the folder that holds the maps in "
        "dataloader.train.dataset.semantic_root (a relative one starts from DETECTRON2_DATASETS), draw maps "
        f"from the masks with tools/draw_semantic_maps.py, or train without maps: {WITHOUT_MAPS}"
    )


def check_maps(
    name: str, folder: Path, paths: Sequence[Path], classes: Sequence[str], json_file: Path
) -> int | None:
    """Check, before a training starts, that every map is there and that drawn ones fit the classes.

    Where the maps were drawn from another state of the annotations a warning says so.

    Args:
        name: name of the data set, for messages.
        folder: folder of the maps.
        paths: the map of each image.
        classes: class names of the data set.
        json_file: annotation file of the data set.

    Returns:
        The number of classes, without the background, that the maps were drawn for; None for maps from
        elsewhere.

    Raises:
        UserError: a map is missing, or the maps were drawn for other classes.
    """
    if not folder.is_dir():
        raise missing(f"data set {name}: folder {folder} of the semantic maps")
    drawn = read_record(folder)
    if drawn is None:
        _check_presence(name, paths, "add them")
        return None
    if drawn["classes"] != list(classes):
        raise UserError(
            f"data set {name}: the semantic maps in {folder} were drawn for other classes "
            f"({len(drawn['classes'])}, of {drawn['annotation_file']}); draw them into another folder with "
            f"{_TOOL}"
        )
    if drawn["sha256"] == fingerprint(json_file):
        _check_presence(name, paths, f"draw them with {_TOOL}, which goes on where it stopped")
    else:
        # The tool does not add to maps of another state.
        _check_presence(name, paths, f"draw all of them into another folder with {_TOOL}")
        message = (
            f"data set {name}: the semantic maps in {folder} were drawn from another state of the "
            "annotations; draw them anew into another folder if objects have changed"
        )
        log_first_n(logging.WARNING, message, key="message", name=__name__)
    return len(classes)


def _check_presence(name: str, paths: Sequence[Path], cure: str) -> None:
    # Listing a folder is much quicker than asking for each of its files.
    found = {parent: set(os.listdir(parent)) for parent in {path.parent for path in paths} if parent.is_dir()}
    absent = [path for path in paths if path.name not in found.get(path.parent, ())]
    if absent:
        raise UserError(
            f"data set {name}: {len(absent)} of {len(paths)} semantic maps are missing, first {absent[0]}; "
            f"{cure}, or correct dataloader.train.dataset.semantic_root"
        )


def check_drawn(file_name: str, num_classes: int, channels: int) -> None:
    """Check that a semantic branch is one for drawn maps.

    The values of a drawn map are all within the 183 of COCO-Stuff, so they tell nothing.

    Args:
        file_name: of the map.
        num_classes: what it was drawn for.
        channels: classes that the branch learns, a background included.

    Raises:
        UserError: the branch learns other classes.
    """
    if channels != num_classes + 1:
        raise UserError(
            f"semantic map {file_name} was drawn for {num_classes} classes and the background, the config's "
            f"semantic branch learns {channels} classes; take {_DRAWN_MAPS} and num_classes={num_classes}"
        )


def fingerprint(path: Path) -> str:
    """Return the SHA-256 of a file, which may be too large to be held in memory twice."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_record(folder: Path) -> dict | None:
    """Return what the drawing tool has noted beside its maps, or None for maps from elsewhere."""
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_bytes())
        return {key: record[key] for key in ("format", "annotation_file", "sha256", "classes")}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not the record that tools/draw_semantic_maps.py writes; remove its folder and draw "
            "the maps again"
        ) from error
