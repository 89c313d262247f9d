"""Trainings that tools start, and what they leave behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import runs
from htd.errors import UserError


@pytest.fixture
def started(monkeypatch):
    """The processes that were started; each says one line and ends with the status in ``status``."""
    found = SimpleNamespace(calls=[], status=0)

    def run(command, *, env, stdout, stderr, close_fds):
        found.calls.append((command, env))
        if stdout:
            stdout.write("what happened\n")
        return SimpleNamespace(returncode=found.status)

    monkeypatch.setattr(subprocess, "run", run)
    return found


def test_folder_is_kept_by_a_run_that_goes_on(started, tmp_path):
    (tmp_path / "run").mkdir()
    for arguments, kept in ((["--resume"], True), ([], False)):
        runs.train_net("c.py", tmp_path / "run", tmp_path / "data", arguments)
        assert (tmp_path / "run").is_dir() is kept
    command, environment = started.calls[0]
    assert command[2:] == ["--config-file", "c.py", "--resume", f"train.output_dir={tmp_path / 'run'}"]
    assert environment["DETECTRON2_DATASETS"] == str(tmp_path / "data")


def test_failure_says_where_the_reason_stands(started, tmp_path):
    started.status = 2
    with pytest.raises(UserError, match="status 2; what it wrote above says why"):
        runs.train_net("c.py", tmp_path / "run", tmp_path, [])
    log = tmp_path / "new" / "log"
    for _ in range(2):
        with pytest.raises(UserError, match="status 2; the end of .*new/log says why"):
            runs.train_net("c.py", tmp_path / "run", tmp_path, [], log=log)
    assert log.read_text() == "what happened\n" * 2


def test_last_value(tmp_path):
    metrics = tmp_path / "metrics.json"
    records = [{"total_loss": 3}, {"bbox/AP": 1.5}, {"bbox/AP": 2.25, "iteration": 9}, {"total_loss": 2}]
    metrics.write_text("\n".join(map(json.dumps, records)))
    assert runs.last_value(metrics) == 2.25
    metrics.write_text(json.dumps(records[0]))
    with pytest.raises(UserError, match="was not evaluated"):
        runs.last_value(metrics)


def test_interrupted_write_leaves_the_file_as_it_was(monkeypatch, tmp_path):
    file = tmp_path / "folder" / "table"
    runs.write_whole(file, b"first")

    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs.os, "replace", full)
    with pytest.raises(UserError, match="cannot be written .No space left"):
        runs.write_whole(file, b"second")
    assert [path.read_bytes() for path in file.parent.iterdir()] == [b"first"]


def test_one_call_at_a_time(tmp_path):
    with runs.alone_in(tmp_path / "new"):
        with (
            pytest.raises(UserError, match="another call is at work in .*new"),
            runs.alone_in(tmp_path / "new"),
        ):
            pass
        with runs.alone_in(tmp_path / "other"):
            pass
    with runs.alone_in(tmp_path / "new"):
        pass


def wait_until(reached, what, seconds=60):
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, f"no {what} in {seconds} s"
        time.sleep(0.02)


def is_free(folder):
    try:
        with runs.alone_in(folder):
            return True
    except UserError:
        return False


@pytest.fixture
def call(tmp_path):
    """A call that holds the folder ``out``, while its training waits for a file ``stop``."""
    (tmp_path / "train_net.py").write_text(
        "import pathlib, time\n"
        "pathlib.Path('begun').touch()\n"
        "end = time.monotonic() + 120\n"
        "while not pathlib.Path('stop').exists() and time.monotonic() < end:\n"
        "    time.sleep(0.02)\n"
    )
    code = "import pathlib, runs\n"
    code += "runs.ROOT = pathlib.Path.cwd()\n"
    code += "with runs.alone_in(runs.ROOT / 'out'):\n"
    code += "    runs.train_net('c.py', runs.ROOT / 'out/run', runs.ROOT, [])\n"
    path = os.pathsep.join([str(Path(runs.__file__).parent), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}
    )
    try:
        wait_until((tmp_path / "begun").exists, "training")
        yield process
    finally:
        (tmp_path / "stop").touch()
        process.kill()
        process.wait()


def test_a_call_that_is_ended_ends_its_training(call, tmp_path):
    assert not is_free(tmp_path / "out")
    call.send_signal(signal.SIGTERM)
    assert call.wait(60) == 128 + signal.SIGTERM
    assert is_free(tmp_path / "out")


def test_a_training_that_is_left_keeps_others_out(call, tmp_path):
    call.kill()
    call.wait()
    assert not is_free(tmp_path / "out")
    (tmp_path / "stop").touch()
    wait_until(lambda: is_free(tmp_path / "out"), "free folder")


def test_sigterm_is_as_before_after_a_training(started, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    runs.train_net("c.py", tmp_path / "run", tmp_path, [])
    assert signal.getsignal(signal.SIGTERM) is before


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match="cannot be written .Not a directory"),
        runs.alone_in(tmp_path / "file/x"),
    ):
        pass
