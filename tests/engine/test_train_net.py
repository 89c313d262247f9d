"""The command itself, in this process."""

import subprocess
import sys

import pytest

import train_net
from htd.engine.config import load_config
from htd.errors import run_cli
from tests.engine.tiny import TINY


@pytest.fixture
def call(monkeypatch):
    """Return a function that runs the command with these arguments on the tiny leaf."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["train_net.py", "--config-file", TINY, *arguments])
        run_cli(train_net.command)

    return run


def test_print_config_prints_a_config_that_loads(call, capsys, tmp_path):
    call("--print-config", "dataloader.train.total_batch_size=1")
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    assert load_config(str(tmp_path / "printed.yaml")).train.max_iter == 18


def test_train_and_evaluate(call, tmp_path):
    output = f"train.output_dir={tmp_path}"
    call(output, "train.max_iter=2")
    call(output, "--resume", "train.max_iter=3")
    call(output, "--eval-only", f"train.init_checkpoint={tmp_path / 'model_final.pth'}")
    assert (tmp_path / "evaluation.json").is_file()


@pytest.mark.parametrize(
    "arguments",
    [
        ["no.such.key=1"],
        ["--eval-only"],
        ["train.init_checkpoint=no.pth"],
        ["train.device=gpu"],
        # Data that fail in the very first iteration, when there is nothing yet to write.
        ["dataloader.train.mapper._target_=tests.engine.tiny.BrokenMapper"],
    ],
)
def test_a_mistake_is_one_line_and_status_2(call, capsys, tmp_path, arguments):
    arguments = [f"train.output_dir={tmp_path}", *arguments]
    with pytest.raises(SystemExit) as caught:
        call(*arguments)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1


def test_the_known_warning_of_torch_is_not_printed(tmp_path):
    """In a process of its own, since Detectron2 is imported already in this one."""
    flags = ["--config-file", TINY, "no.such.key=1"]
    done = subprocess.run([sys.executable, train_net.__file__, *flags], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
