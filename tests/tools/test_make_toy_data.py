"""The command that makes toy data."""

import json
import sys
from pathlib import Path

import pytest

from htd.errors import UserError
from tools import make_toy_data


def run(monkeypatch, *flags):
    monkeypatch.setattr(sys, "argv", ["make_toy_data.py", *map(str, flags)])
    make_toy_data.command()


def test_flags_reach_the_data(monkeypatch, tmp_path):
    output = tmp_path / "toy"
    run(monkeypatch, "--output", output, "--strength", "0.7", "--train", 3, "--val", 2, "--seed", 5)
    assert json.loads((output / "toy.json").read_text()) == {
        "strength": 0.7,
        "train": 3,
        "val": 2,
        "seed": 5,
        "format": 1,
    }
    assert len(list((output / "train").iterdir())) == 3 and len(list((output / "val").iterdir())) == 2
    with pytest.raises(UserError, match="remove it or choose another folder"):
        run(monkeypatch, "--output", output, "--train", 3, "--val", 2)


def test_a_folder_that_cannot_be_made(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere" / "folder")
    for output in ("file/x", "file/x/y", "gone/x"):
        with pytest.raises(UserError, match=f"{output} cannot be made"):
            run(monkeypatch, "--output", tmp_path / output, "--train", 3, "--val", 2)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "gone"}


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a folder of Linux that takes no files")
def test_a_folder_that_takes_no_files(monkeypatch):
    with pytest.raises(UserError, match="toy data: folder .*toy cannot be made"):
        run(monkeypatch, "--output", Path("/proc") / "toy", "--train", 3, "--val", 2)
