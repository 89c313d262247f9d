"""Files that are written as a whole or not at all."""

import os

import pytest

from htd.errors import UserError
from htd.files import write_file


@pytest.mark.parametrize("content", ["\u00e9", "\u00e9".encode(), lambda file: file.write("\u00e9".encode())])
def test_text_bytes_and_writers_replace_what_was_there(tmp_path, content):
    path = tmp_path / "file"
    path.write_text("old")
    write_file(path, content)
    assert path.read_bytes() == b"\xc3\xa9" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("unexpected pos 1")])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("old")

    def half(file):
        file.write(b"half")
        raise error

    with pytest.raises(UserError, match="file cannot be written"):
        write_file(path, half)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_file_and_folder_are_synced_before_and_after_the_rename(tmp_path, monkeypatch):
    steps = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda number: steps.append(os.fstat(number).st_mode >> 12) or sync(number)
    )
    monkeypatch.setattr(os, "replace", lambda *names: steps.append("rename") or replace(*names))
    write_file(tmp_path / "file", "text")
    assert steps == [0o10, "rename", 0o4]  # a file, its new name, its folder


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="absent/file cannot be written"):
        write_file(tmp_path / "absent" / "file", "text")
