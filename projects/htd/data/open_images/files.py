"""Reading of OpenImages' text and CSV files and of the class list, with errors that name file and line."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from htd.data.coco_file import datasets_root, resolve
from htd.errors import UserError


def existing(path: str | Path) -> Path:
    """Return a data path under the data root.

    Raises:
        UserError: it is not a file.
    """
    found = resolve(path)
    if not found.is_file():
        raise UserError(
            f"OpenImages file {found} does not exist; put the data there, set DETECTRON2_DATASETS "
            f"(now {datasets_root()}) to the folder that holds them, or name another file"
        )
    return found


def malformed(path: Path, line: int, what: str) -> UserError:
    """Return the error of one line of a file."""
    return UserError(f"OpenImages file {path}, line {line}: {what}; correct the line or get the file again")


@contextmanager
def opened(path: Path) -> Iterator[TextIO]:
    """Open a text file for a ``with`` block, without the mark that Excel puts before the first line.

    Raises:
        UserError: the file cannot be read, or what the block reads of it is not UTF-8.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            yield file
    except OSError as error:
        raise UserError(
            f"OpenImages file {path} cannot be read ({error.strerror}); correct its rights, or name another"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"OpenImages file {path} is not text in UTF-8 ({error.reason}); unpack it if it is an archive, "
            "save it as UTF-8, or name another file"
        ) from error


@contextmanager
def _opened_csv(path: Path) -> Iterator:
    """Open a CSV file for a ``with`` block, as :func:`opened` does; what is no CSV is malformed."""
    with opened(path) as file:
        reader = csv.reader(file)
        try:
            yield reader
        except csv.Error as error:
            raise malformed(path, reader.line_num, str(error)) from error


def csv_rows(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> Iterator[tuple[int, list]]:
    """Yield line number and the values of the named columns, in this order, of a CSV file with a header.

    Args:
        path: an existing file.
        columns: columns that have to be there.
        optional: columns whose value is None where the file lacks them.

    Raises:
        UserError: the file cannot be read, a column is missing, or a line has not as many values as the
            header.
    """
    with _opened_csv(path) as reader:
        header = [name.strip() for name in next(reader, [])]
        missing = [name for name in columns if name not in header]
        if missing:
            raise UserError(
                f"OpenImages file {path} has no column {', '.join(missing)} in its first line; "
                f"it has {', '.join(header[:12]) or 'none'}; is it another of the official files?"
            )
        places = [header.index(name) if name in header else -1 for name in (*columns, *optional)]
        for row in reader:
            if len(row) != len(header):
                if not row:
                    continue
                raise malformed(path, reader.line_num, f"{len(row)} values under {len(header)} columns")
            yield reader.line_num, [row[k] if k >= 0 else None for k in places]


@dataclass(frozen=True)
class ClassList:
    """The classes, number k being class k.

    Attributes:
        path: where they were read.
        labels: identifiers such as ``/m/061hd_``.
        names: names for people.
    """

    path: Path
    labels: list[str]
    names: list[str]

    def numbers(self) -> dict[str, int]:
        """Return the class of each label."""
        return {label: number for number, label in enumerate(self.labels)}


def read_classes(path: str | Path) -> ClassList:
    """Read class descriptions: ``label,name`` a line, or ``label,name,number`` with numbers 1..K.

    Without numbers the classes are in the order of the lines. A first line ``LabelName,DisplayName``
    is a header.

    Raises:
        UserError: the file is missing, a line is malformed, or a label or number occurs twice.
    """
    path = existing(path)
    found: dict[int, tuple[str, str]] = {}
    with _opened_csv(path) as reader:
        for row in reader:
            if not row or row[0] == "LabelName":
                continue
            if len(row) not in (2, 3) or not row[0]:
                raise malformed(path, reader.line_num, "a class is label,name or label,name,number")
            try:
                number = int(row[2]) if len(row) == 3 else len(found) + 1
            except ValueError:
                raise malformed(path, reader.line_num, f"{row[2]!r} is not a whole number") from None
            if number in found or any(row[0] == label for label, _ in found.values()):
                raise malformed(path, reader.line_num, f"class {row[0]} or its number {number} occurs twice")
            found[number] = row[0], row[1]
    if not found or sorted(found) != list(range(1, len(found) + 1)):
        raise UserError(
            f"OpenImages file {path} has {len(found)} classes whose numbers are not 1 to {len(found)}; "
            "name the class descriptions, or correct the third column"
        )
    labels, names = zip(*(found[number] for number in sorted(found)), strict=True)
    return ClassList(path, list(labels), list(names))
