"""The project's source files, parsed once, in the form that the static rules look at."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PACKAGE = "projects/htd"


class Source(NamedTuple):
    """One Python file: its path from the top level with forward slashes, its text and its syntax tree."""

    path: str
    text: str
    tree: ast.Module

    @classmethod
    def parse(cls, path: str, text: str) -> Source:
        """Parse a text as if it stood at ``path``."""
        return cls(path, text, ast.parse(text))


@cache
def all_sources() -> tuple[Source, ...]:
    """Every Python file of the project, without those of the environment."""
    folders = ("projects", "configs", "tools", "tests")
    files = [*ROOT.glob("*.py"), *(file for folder in folders for file in (ROOT / folder).rglob("*.py"))]
    return tuple(Source.parse(file.relative_to(ROOT).as_posix(), file.read_text()) for file in sorted(files))


def docstrings(tree: ast.Module) -> set[ast.Constant]:
    """The string nodes that are docstrings."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                found.add(first.value)
    return found


def strings(source: Source) -> Iterator[tuple[int, str]]:
    """(line, value) of each string that is not a docstring; of an f-string its constant pieces."""
    skip = docstrings(source.tree)
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in skip:
            yield node.lineno, node.value


def imported_modules(source: Source) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of everything imported anywhere in the file, inside functions too.

    ``from a import b`` gives ``a.b``: b may be a module, and the rules go by prefixes anyway.
    """
    parts = Path(source.path).with_suffix("").parts
    if source.path.startswith(PACKAGE):
        parts = parts[1:]  # projects/htd is imported as htd
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(parts[: len(parts) - node.level]) if node.level else []
            base += node.module.split(".") if node.module else []
            yield from ((node.lineno, ".".join([*base, alias.name])) for alias in node.names)
