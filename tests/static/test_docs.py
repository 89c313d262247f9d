"""Links in the documentation lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def broken_links(page: Path, text: str) -> list[str]:
    """Return the local links of a page whose file is missing."""
    targets = [target for target in LINK.findall(text) if "://" not in target and target[0] != "#"]
    return [target for target in targets if not (page.parent / target.partition("#")[0]).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page):
    assert broken_links(page, page.read_text()) == []


def test_broken_links_are_found():
    text = "[a](nowhere.md#b) [b](LICENSE#c) [c](http://x/y) [d](#e)"
    assert broken_links(ROOT / "README.md", text) == ["nowhere.md#b"]
