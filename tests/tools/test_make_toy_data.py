"""The command that makes toy data."""

import json
import sys

import pytest

import make_toy_data
from htd.errors import UserError


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
