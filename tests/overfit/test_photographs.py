"""A small model of each system learns eight photographs by heart, by the command that a user types."""

import json
import subprocess
import sys

import pytest

from tests.overfit.photographs import ANNOTATIONS, IMAGES, write_selection


@pytest.mark.slow
@pytest.mark.skipif(not ANNOTATIONS.exists(), reason=f"needs the photographs of {ANNOTATIONS}")
@pytest.mark.parametrize("leaf", ["configs/demo/htd_photographs.py"])
def test_learns_eight_photographs(leaf, tmp_path):
    selection = tmp_path / "eight.json"
    write_selection(selection)
    assert len(json.loads(selection.read_text())["images"]) == 8
    data = [f"--{part}-{kind}" for part in ("train", "val") for kind in ("json", "images")]
    paths = [selection, IMAGES] * 2
    flags = [str(x) for pair in zip(data, paths, strict=True) for x in pair]
    command = [sys.executable, "train_net.py", "--config-file", leaf, *flags, f"train.output_dir={tmp_path}"]
    subprocess.run(command, check=True)
    last = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()][-1]
    assert last["bbox/AP50"] >= 90
