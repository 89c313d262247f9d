"""The demo: all its steps with a few iterations, and that it learns (slow)."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def run(output, *flags):
    command = [sys.executable, str(ROOT / "tools" / "demo.py"), "--output", str(output), *flags]
    return subprocess.run(command, capture_output=True, text=True, cwd=output.parent)


@pytest.mark.slow
def test_all_steps_twice(tmp_path):
    output = tmp_path / "demo"
    flags = ["--pictures", "2", "train.max_iter=3", "train.eval_period=0"]
    first = run(output, "--least-ap", "0", *flags)
    assert first.returncode == 0, first.stderr
    again = run(output, "--least-ap", "90", *flags)
    assert again.returncode == 2 and again.stderr.splitlines()[-1].startswith("error: box AP ")
    assert len(list((output / "pictures").glob("*.png"))) == 2
    for part in ("train/model_final.pth", "eval-only/evaluation.json", "datasets/toy/toy.json"):
        assert (output / part).is_file()


@pytest.mark.slow
def test_ordinary_shapes_are_learned_in_300_iterations(tmp_path):
    done = run(tmp_path / "demo", "--strength", "0", "--least-ap", "50", "train.max_iter=300")
    assert done.returncode == 0, done.stderr
