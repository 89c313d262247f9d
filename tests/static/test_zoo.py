"""The page of the zoo and the configs' docstrings tell the same, and every leaf says what it reaches."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.static.source import ROOT


def docstring(path: Path) -> str:
    """The docstring of a file as one line."""
    return " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split())


ZOO, DEMO = ("htd", "htc", "tsd", "tood", "salt", "baselines"), ("demo",)
LEAVES = {
    path.relative_to(ROOT).as_posix(): docstring(path)
    for folder in (*ZOO, *DEMO)
    for path in sorted((ROOT / "configs" / folder).glob("*.py"))
}
_AP = r"(?:box AP|(AP50)) (\d+\.\d)(?:, mask AP (\d+\.\d))?"
PUBLISHED = re.compile(rf"Published {_AP} \((paper, )?(?:COCO |OpenImages )?([\w-]+)\)")
MEASURED = re.compile(rf"(?<!Published ){_AP}")
NOT_RUN = re.compile(r"\bnot run\b")


class Row(NamedTuple):
    """What one line of the zoo's table says in the columns that are checked."""

    config: str
    target: str
    backbone: str
    schedule: str
    parameters: str
    published: str
    here: str


COLUMNS = ("backbone", "schedule", "M params", "published box / mask AP", "here")


def zoo(page: str) -> list[Row]:
    """The rows of the table, whatever columns it has besides COLUMNS."""
    lines = [line.strip().strip("|") for line in page.splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip() for cell in line.split("|")] for line in lines]
    places = [head.index(name) for name in COLUMNS]
    links = [re.fullmatch(r"\[(\w+)\]\((?:\.\./)?(\S+)\)", cells[0]) for cells in rows]
    return [Row(*link.groups(), *(cells[k] for k in places)) for link, cells in zip(links, rows, strict=True)]


def unstated(leaves: dict[str, str]) -> list[str]:
    """The leaves whose docstrings state neither what they reach here nor that they were not run."""
    return [path for path, text in leaves.items() if not (MEASURED.search(text) or NOT_RUN.search(text))]


def mismatches(row: Row, text: str) -> list[str]:
    """The columns of a row that do not tell what the leaf's docstring tells."""
    published, measured = PUBLISHED.search(text), MEASURED.search(text)
    wrong = [name for name in ("backbone", "schedule") if not getattr(row, name)]
    if published:
        where = f"({published[4] or ''}{published[5]})"
        wrong += [] if row.published == f"{_aps(published)} {where}" else ["published"]
    elif row.published != "not stated" or "No published AP" not in text:
        wrong.append("published")
    expected = _aps(measured) if measured else "not run"
    return wrong if row.here == expected else [*wrong, "here"]


def _aps(found: re.Match) -> str:
    boxes = f"{found[1]} {found[2]}" if found[1] else found[2]
    return f"{boxes} / {found[3]}" if found[3] else boxes


ROWS = zoo((ROOT / "docs/zoo.md").read_text())


def test_each_leaf_has_one_row():
    assert sorted(row.target for row in ROWS) == sorted(path for path in LEAVES if path.split("/")[1] in ZOO)
    assert [row.config for row in ROWS] == [Path(row.target).stem for row in ROWS]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.config)
def test_a_row_tells_what_the_docstring_tells(row):
    assert mismatches(row, LEAVES[row.target]) == []


def test_every_leaf_states_an_ap_or_that_it_was_not_run():
    assert len(LEAVES) > 8 and unstated(LEAVES) == []


GOOD = Row("a", "configs/htd/a.py", "R-50", "12 epochs", "41.8", "37.4 (val2017)", "not run")
TEXT = "A, 12 epochs. Published box AP 37.4 (COCO val2017); not run here."
PAPER = "A. Follows the paper only. Published box AP 37.4 (paper, COCO val2017); not run here."
AP50 = "A. Published AP50 37.4 (OpenImages validation); not run here."
MASKS = "A. Published box AP 42.3, mask AP 37.4 (COCO val2017); box AP 42.0, mask AP 37.1 by train_net.py."


@pytest.mark.parametrize(
    ("changes", "text", "wrong"),
    [
        ({}, TEXT, []),
        ({"backbone": "", "schedule": ""}, TEXT, ["backbone", "schedule"]),
        ({"published": "37.5 (val2017)"}, TEXT, ["published"]),
        ({"published": "37.45"}, TEXT, ["published"]),
        ({"published": "37.4 (test-dev)"}, TEXT, ["published"]),
        ({"published": "37.4"}, TEXT, ["published"]),
        ({"published": "42.3 / 37.4 (val2017)", "here": "42.0 / 37.1"}, MASKS, []),
        ({"published": "42.3 / 37.5 (val2017)", "here": "42.0 / 37.2"}, MASKS, ["published", "here"]),
        ({"published": "42.3 (val2017)", "here": "42.0"}, MASKS, ["published", "here"]),
        ({"published": "37.4 (paper, val2017)"}, PAPER, []),
        ({}, PAPER, ["published"]),
        ({"published": "37.4 (paper, val2017)"}, TEXT, ["published"]),
        ({"published": "AP50 37.4 (validation)"}, AP50, []),
        ({"published": "37.4 (validation)"}, AP50, ["published"]),
        ({"published": "not stated"}, TEXT, ["published"]),
        ({"published": "not stated"}, "A. No published AP; not run here.", []),
        ({}, "A. No published AP; not run here.", ["published"]),
        ({"published": "not stated"}, "A, not run here.", ["published"]),
        ({"here": "37.2"}, TEXT, ["here"]),
        ({}, "A. Published box AP 37.4 (val2017); box AP 37.2 here by train_net.py.", ["here"]),
        ({"here": "37.2"}, "A. Published box AP 37.4 (val2017); box AP 37.2 here by train_net.py.", []),
    ],
)
def test_a_planted_mismatch_is_found(changes, text, wrong):
    assert mismatches(GOOD._replace(**changes), text) == wrong


def test_a_silent_leaf_is_found():
    texts = {"a": "A on toy data: box AP 40.5 at seed 0.", "b": "Published box AP 3.1.", "c": "C; not run."}
    assert unstated(texts) == ["b"]
