"""Writes files that are whole or not there, even if the process or the machine stops meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from htd.errors import UserError, reason


def write_file(path: str | Path, content: str | bytes | Callable[[IO[bytes]], object]) -> None:
    """Write a file as a whole or not at all; an existing one is replaced at the end.

    Args:
        path: the file; its folder has to be there.
        content: text (written as UTF-8), bytes, or what writes them to an open file.

    Raises:
        UserError: it cannot be written; what was there before is untouched.
    """
    path = Path(path)
    # Several processes may write the same file; each replaces it by a whole one.
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with partial.open("wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # the latter is torch's word for a full disk
        why = (error.strerror or reason(error)) if isinstance(error, OSError) else reason(error)
        raise UserError(f"{path} cannot be written ({why}); make room or name another place") from error
    finally:
        partial.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Let the new name of a file outlast a power failure, where the file system can promise that."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems do not sync folders
        pass
    finally:
        os.close(descriptor)
