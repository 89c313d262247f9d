"""Errors that end a command in one line."""

import linecache
from pathlib import Path

import pytest

import htd
from htd.errors import UserError, one_line_errors


def run(code, folder, monkeypatch):
    """Run a line of code as if a file of this folder had it."""
    file = str(Path(folder) / "part.py")
    monkeypatch.setitem(linecache.cache, file, (len(code), None, [code], file))
    exec(compile(code, file, "exec"), {})


def test_own_statements_about_a_value_are_one_line(monkeypatch):
    with pytest.raises(UserError, match="^size is 3 it is odd$"), one_line_errors():
        run("raise ValueError('size is 3\\n it is odd')", Path(htd.__file__).parent / "layers", monkeypatch)


@pytest.mark.parametrize(
    "code, folder, error",
    [
        ("raise ValueError('x')", "/elsewhere", ValueError),
        ("list(zip([1], [], strict=True))", Path(htd.__file__).parent, ValueError),
        ("raise KeyError('x')", Path(htd.__file__).parent, KeyError),
    ],
)
def test_all_others_keep_their_trace(code, folder, error, monkeypatch):
    with pytest.raises(error), one_line_errors():
        run(code, folder, monkeypatch)
