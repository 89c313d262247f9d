"""A small model of each system learns eight photographs by heart, by the command that a user types."""

import json
import subprocess
import sys

import pytest
from detectron2.config import LazyConfig

from htd.data import draw_semantic_maps
from tests.overfit.photographs import ANNOTATIONS, IMAGES, write_selection


def data_flags(selection):
    """Return the flags of a training that is evaluated on what it learns from."""
    names = [f"--{part}-{kind}" for part in ("train", "val") for kind in ("json", "images")]
    return [str(x) for pair in zip(names, [selection, IMAGES] * 2, strict=True) for x in pair]


@pytest.mark.slow
@pytest.mark.skipif(not ANNOTATIONS.exists(), reason=f"needs the photographs of {ANNOTATIONS}")
@pytest.mark.parametrize(
    "leaf", [f"configs/demo/{system}_photographs.py" for system in ("htd", "htc", "tsd", "tood", "salt")]
)
def test_learns_eight_photographs(leaf, tmp_path):
    selection = tmp_path / "eight.json"
    write_selection(selection)
    assert len(json.loads(selection.read_text())["images"]) == 8
    train = LazyConfig.load(leaf).dataloader.train
    flags = [*data_flags(selection), f"train.output_dir={tmp_path / 'run'}"]
    if train.dataset.get("semantic_root"):
        maps = draw_semantic_maps(selection, tmp_path / "maps")
        flags.append(f"dataloader.train.dataset.semantic_root={maps}")
    subprocess.run([sys.executable, "train_net.py", "--config-file", leaf, *flags], check=True)
    last = [json.loads(line) for line in (tmp_path / "run" / "metrics.json").read_text().splitlines()][-1]
    assert last["bbox/AP50"] >= 90
    if train.mapper.get("mask_format"):
        assert last["segm/AP50"] >= 90
