"""The error for mistakes that the user can repair, and how a command reports it."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_PACKAGE = Path(__file__).parent


class UserError(Exception):
    """A mistake of the user: the message says what is wrong, where, and what to do."""


def run_cli(main: Callable[[], object]) -> None:
    """Run the main function of a command so that a user's mistake ends in one message, without a trace.

    Args:
        main: the command; a :class:`UserError` that it raises is written to stderr as ``error: <message>``
            and the process ends with status 2, as it does for a wrong flag. An interrupt by the
            keyboard ends it with status 130. All else passes unchanged.
    """
    try:
        main()
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; give the command again (a training goes on with --resume)\n")
        sys.exit(130)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn a ``ValueError`` that a ``raise`` of this package has raised into a :class:`UserError`.

    All other errors pass with their trace: those of other packages, and bugs such as a strict ``zip`` of
    lists of different lengths.
    """
    try:
        yield
    except ValueError as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        if _PACKAGE in Path(frame.filename).parents and (frame.line or "").startswith("raise "):
            raise UserError(" ".join(str(error).split())) from error
        raise


def reason(error: BaseException) -> str:
    """Return the first sentence of an error's text, short enough to stand in a message of ours."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
    first = re.split(r"(?<=[.!?:;])\s|\n", plain)[0].rstrip(".:; ")
    if " " not in first:
        first = f"{type(error).__name__} {first}".rstrip()
    return first if len(first) <= 120 else f"{first[:117]}..."
