"""The command that draws semantic maps."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest

from htd.errors import UserError
from tests.static.source import ROOT
from tools import draw_semantic_maps

LEFT_HALF = {
    "id": 1,
    "image_id": 1,
    "category_id": 1,
    "bbox": [0, 0, 2, 4],
    "segmentation": [[0, 0, 2, 0, 2, 4, 0, 4]],
}
CONTENT = {
    "images": [{"id": 1, "file_name": "1.jpg", "height": 4, "width": 4}],
    "categories": [{"id": 1, "name": "thing"}],
    "annotations": [LEFT_HALF],
}


def test_the_command_draws_and_says_how_to_train(tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps(CONTENT))
    tool = str(ROOT / "tools/draw_semantic_maps.py")
    command = [sys.executable, tool, "--json", "mine.json", "--output", "out/maps"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "out/maps/1.png"), -1), [[0, 0, 1, 1]] * 4)
    assert "100%" in done.stderr and "1/1" in done.stderr
    assert "1 maps drawn, 0 were there" in done.stdout
    assert f"dataloader.train.dataset.semantic_root={tmp_path / 'out' / 'maps'}" in done.stdout


def test_paths_start_from_the_present_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "elsewhere"))
    monkeypatch.setattr(sys, "argv", ["draw_semantic_maps.py", "--json", "no.json", "--output", "x"])
    with pytest.raises(UserError, match=f"annotation file {tmp_path}/no.json does not exist"):
        draw_semantic_maps.command()
    assert list(tmp_path.iterdir()) == []
