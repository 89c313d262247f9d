"""Importing the package: one clear error where it cannot work, nothing but registrations where it can."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.static.source import ROOT

COMMANDS = [
    "pip install torch torchvision",
    "python tools/install_detectron2.py ",
    "python tools/install_detectron2.py --official",
]
WORKING = {
    "torch/__init__.py": "",
    "torchvision/__init__.py": "",
    "torchvision/extension.py": "def _has_ops():\n    return True\n",
    "detectron2/__init__.py": "",
    "detectron2/modeling.py": "",
}


def absent(name: str) -> dict[str, str]:
    """A package that behaves as if it were not there, whatever is installed behind it."""
    return {f"{name}/__init__.py": f"raise ModuleNotFoundError(\"No module named '{name}'\", name='{name}')"}


def python(code: str, folder: Path | None = None, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, with the packages of ``folder`` before all others."""
    path = os.pathsep.join(map(str, [*([folder] if folder else []), ROOT / "projects"]))
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-W", "ignore", *(flags or ("-c", code))]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120)


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (absent("torch"), "torch is not installed"),
        (absent("torchvision"), "torchvision is not installed"),
        (absent("detectron2"), "detectron2 is not installed"),
        (
            {"torchvision/__init__.py": "raise RuntimeError('operator torchvision::nms does not exist')"},
            "torch and torchvision do not match (RuntimeError: operator torchvision::nms does not exist)",
        ),
        (
            {"torchvision/__init__.py": "raise AttributeError('partially initialized module')"},
            "torch and torchvision do not match (AttributeError: partially initialized module)",
        ),
        ({"torchvision/extension.py": "def _has_ops():\n    return False\n"}, "operators are not loaded"),
        ({"torch/__init__.py": "raise OSError('libcudart.so.13: no such file')"}, "libcudart.so.13"),
        ({"detectron2/modeling.py": "import absent_dependency"}, "No module named 'absent_dependency'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_one_clear_error_with_the_commands(tmp_path, files, words):
    done = python("import htd", write(tmp_path, {**WORKING, **files}))
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    assert "ImportError: htd cannot be imported: " in done.stderr
    assert words in done.stderr
    assert all(command in done.stderr for command in COMMANDS)


def test_environment_that_import_refuses_is_still_described(tmp_path):
    broken = {"torchvision/__init__.py": "raise RuntimeError('operator torchvision::nms does not exist')"}
    done = python("", write(tmp_path, {**WORKING, **broken}), "-m", "htd.collect_env")
    assert (done.returncode, done.stderr) == (0, "")
    assert "torchvision ops" in done.stdout
    assert "NOT LOADED: torch and torchvision builds differ (operator torchvision::nms" in done.stdout


def test_import_registers_models_and_does_nothing_else():
    done = python(
        """
import logging, random, torch
from detectron2 import modeling
from detectron2.data import DatasetCatalog
def state():
    return (sorted(DatasetCatalog.list()), random.getstate(), torch.get_rng_state().sum().item(),
            torch.get_num_threads(), torch.get_default_dtype(), len(logging.getLogger().handlers))
before = state()
import htd
assert state() == before
for kind in ("META_ARCH", "BACKBONE", "PROPOSAL_GENERATOR", "ROI_HEADS"):
    registry = getattr(modeling, kind + "_REGISTRY")
    assert any(entry.__module__.startswith("htd.") for _, entry in registry), kind
"""
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
