"""A user's mistake ends a command in one message; everything else passes through."""

import pytest

from htd.errors import UserError, run_cli


def test_users_mistake_is_one_message_and_status_2(capsys):
    def main():
        raise UserError("val.json: no such file; name another one with --val-json")

    with pytest.raises(SystemExit) as stop:
        run_cli(main)
    assert stop.value.code == 2
    assert capsys.readouterr() == ("", "error: val.json: no such file; name another one with --val-json\n")


@pytest.mark.parametrize("error", [SystemExit, ValueError, MemoryError])
def test_other_errors_pass_through(error, capsys):
    def main():
        raise error

    with pytest.raises(error):
        run_cli(main)
    assert capsys.readouterr().err == ""


def test_interrupt_is_one_line(capsys):
    def main():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        run_cli(main)
    assert stop.value.code == 130
    assert capsys.readouterr().err.splitlines() == [
        "interrupted; give the command again (a training goes on with --resume)"
    ]


def test_success_is_silent(capsys):
    assert run_cli(lambda: None) is None
    assert capsys.readouterr() == ("", "")
