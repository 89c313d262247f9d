"""make setup, make test and .ci/run, played with stand-ins for Python and make: nothing is installed here."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.static.source import ROOT

# Plays a Python of some version; what pip and the tools are asked to do goes into calls.txt.
PYTHON = """\
#!/bin/sh
case "$*" in
  *version_info*) exit {fits} ;;
  *ensurepip*) exit {has_venv} ;;
  --version) echo "Python 3.11.7" ;;
  "-m pip --version") exit 0 ;;
  "-m venv --clear .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
  *) echo "$*" >> calls.txt ;;
esac
"""
NO_FITTING = "no Python 3.10 to 3.13"


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def fake_python(path: Path, *, fits: bool = True, has_venv: bool = True) -> Path:
    return executable(path, PYTHON.format(fits=int(not fits), has_venv=int(not has_venv)))


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A copy of what the commands consist of, and a path on which there is no Python yet."""
    project = tmp_path / "project"
    for name in ("Makefile", "setup.py", "tools", ".ci"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        project.mkdir(exist_ok=True)
        copy(ROOT / name, project / name)
    (tmp_path / "bin").mkdir()
    for tool in ("sh", "bash", "dirname", "mkdir", "cp", "touch"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    return project


def run(checkout: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(checkout.parent / "bin"), **variables}
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=60)


class TestSetup:
    def test_order_of_installation(self, checkout):
        fake_python(checkout.parent / "bin" / "python3")
        done = run(checkout, "tools/setup_env.sh")
        assert (done.returncode, done.stderr) == (0, "")
        calls = (checkout / "calls.txt").read_text().splitlines()
        assert calls == [
            "-m pip install --disable-pip-version-check torch torchvision",
            "tools/install_detectron2.py",
            "-m pip install -q --disable-pip-version-check -e .[eval,crop,dev]",
        ]

    def test_another_torch(self, checkout):
        fake_python(checkout.parent / "bin" / "python3")
        run(checkout, "tools/setup_env.sh", TORCH="torch==2.11.0 torchvision==0.26.0")
        assert " torch==2.11.0 torchvision==0.26.0\n" in (checkout / "calls.txt").read_text()

    def test_first_python_that_fits_is_taken(self, checkout):
        fake_python(checkout.parent / "bin" / "python3", fits=False)
        fake_python(checkout.parent / "bin" / "python3.13")
        assert "(python3.13)" in run(checkout, "tools/setup_env.sh").stdout

    def test_present_environment_is_kept(self, checkout):
        fake_python(checkout / ".venv" / "bin" / "python")
        (checkout / ".venv" / "mine").touch()
        assert run(checkout, "tools/setup_env.sh").returncode == 0
        assert (checkout / ".venv" / "mine").exists()

    @pytest.mark.parametrize(
        ("pythons", "variables", "words"),
        [
            ({}, {}, NO_FITTING),
            ({"bin/python3": {"fits": False}}, {}, NO_FITTING),
            ({}, {"PYTHON": "python9"}, "PYTHON=python9 does not run or is not Python 3.10 to 3.13"),
            ({"bin/python3": {"has_venv": False}}, {}, "apt-get install python3-venv"),
            ({"project/.venv/bin/python": {"fits": False}}, {}, "remove it: make clean"),
        ],
    )
    def test_missing_python_is_one_clear_line(self, checkout, pythons, variables, words):
        for path, abilities in pythons.items():
            fake_python(checkout.parent / path, **abilities)
        done = run(checkout, "tools/setup_env.sh", **variables)
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        assert words in done.stderr
        assert not (checkout / "calls.txt").exists()


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
class TestMake:
    @pytest.fixture(autouse=True)
    def make(self, checkout):
        (checkout.parent / "bin" / "make").symlink_to(shutil.which("make"))
        fake_python(checkout.parent / "bin" / "python3")

    def test_setup_runs_once_and_again_after_a_change(self, checkout):
        def calls():
            return len((checkout / "calls.txt").read_text().splitlines())

        for expected in (3, 3):
            assert run(checkout, "make", "setup").returncode == 0
            assert calls() == expected
        later = (checkout / ".venv" / ".ready").stat().st_mtime + 10
        os.utime(checkout / "tools" / "pure_detectron2" / "patches.py", (later, later))
        run(checkout, "make", "setup")
        assert calls() == 6

    def test_failed_setup_is_not_taken_for_done(self, checkout):
        fake_python(checkout.parent / "bin" / "python3", has_venv=False)
        assert run(checkout, "make", "setup").returncode == 2
        assert not (checkout / ".venv" / ".ready").exists()

    def test_test_is_lint_then_the_suite_without_slow(self, checkout):
        lines = run(checkout, "make", "-n", "test").stdout.splitlines()[-3:]
        assert lines == [
            ".venv/bin/ruff check .",
            ".venv/bin/ruff format --check .",
            'OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 2 --dist loadfile -m "not slow"',
        ]

    @pytest.mark.parametrize(
        ("target", "line"),
        [
            ("demo", ".venv/bin/python tools/demo.py"),
            ("test-slow", "OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 2 --dist loadfile -m slow"),
        ],
    )
    def test_other_targets_set_up_first(self, checkout, target, line):
        lines = run(checkout, "make", "-n", target).stdout.splitlines()
        assert "tools/setup_env.sh" in lines[0]
        assert lines[-1] == line


@pytest.mark.parametrize("status", [0, 2])
def test_ci_is_exactly_make_test(checkout, status):
    path = checkout.parent / "bin"
    executable(path / "make", f'#!/bin/sh\necho "$PWD: make $*" > calls.txt\nexit {status}\n')
    done = subprocess.run(["bash", checkout / ".ci" / "run"], cwd="/", env={"PATH": str(path)}, timeout=60)
    assert done.returncode == status
    assert (checkout / "calls.txt").read_text() == f"{checkout}: make test\n"
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
