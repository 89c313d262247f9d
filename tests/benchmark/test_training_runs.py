"""Trainings in processes of their own, and the folders that they lock."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from htd.benchmark import training_runs
from htd.benchmark.training_runs import last_value, locked, run_training
from htd.errors import UserError


def test_a_run_that_fails(monkeypatch, tmp_path):
    """It says where the reason is, and leaves the folder alone if it was to continue."""
    (tmp_path / "train_net.py").write_text("import sys\nprint(*sys.argv[1:])\nsys.exit(2)\n")
    monkeypatch.setattr(training_runs, "ROOT", tmp_path)
    run, log = tmp_path / "run", tmp_path / "new" / "log"
    run.mkdir()
    for arguments in (["--resume"], []):
        with pytest.raises(UserError, match="status 2.*new/log"):
            run_training("c.py", run, tmp_path, arguments, log=log)
        assert run.is_dir() is bool(arguments)
    assert log.read_text().splitlines() == [
        f"--config-file c.py --resume train.output_dir={run}",
        f"--config-file c.py train.output_dir={run}",
    ]


def test_last_value(tmp_path):
    metrics = tmp_path / "metrics.json"
    records = [{"total_loss": 3}, {"bbox/AP": 1.5}, {"bbox/AP": 2.25, "iteration": 9}, {"total_loss": 2}]
    metrics.write_text("\n".join(map(json.dumps, records)))
    assert last_value(metrics) == 2.25
    metrics.write_text(json.dumps(records[0]))
    with pytest.raises(UserError, match="not evaluated"):
        last_value(metrics)


def is_free(folder):
    try:
        with locked(folder):
            return True
    except UserError:
        return False


def test_a_folder_is_locked_once(tmp_path):
    with locked(tmp_path / "new"):
        assert not is_free(tmp_path / "new")
        assert is_free(tmp_path / "other")
    assert is_free(tmp_path / "new")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"), locked(tmp_path / "file/x"):
        pass


def wait_until(reached, seconds=60):
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.02)


TRAINING = """
import pathlib, time
pathlib.Path("begun").touch()
end = time.monotonic() + 120
while not pathlib.Path("stop").exists() and time.monotonic() < end:
    time.sleep(0.02)
"""
COMMAND = """
import pathlib
from htd.benchmark import training_runs as runs
runs.ROOT = pathlib.Path.cwd()
with runs.locked(runs.ROOT / "out"):
    runs.run_training("c.py", runs.ROOT / "out/run", runs.ROOT, [])
"""


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGKILL])
def test_a_command_that_is_ended(tmp_path, signal_number):
    """SIGTERM ends its training, too; after SIGKILL the training continues and keeps the folder locked."""
    (tmp_path / "train_net.py").write_text(TRAINING)
    command = subprocess.Popen([sys.executable, "-c", COMMAND], cwd=tmp_path, env=dict(os.environ))
    try:
        wait_until((tmp_path / "begun").exists)
        assert not is_free(tmp_path / "out")
        command.send_signal(signal_number)
        if signal_number == signal.SIGTERM:
            assert command.wait(60) == 128 + signal_number
        else:
            command.wait(60)
            assert not is_free(tmp_path / "out")
            (tmp_path / "stop").touch()
        wait_until(lambda: is_free(tmp_path / "out"))
    finally:
        (tmp_path / "stop").touch()
        command.kill()
        command.wait()
