"""Links in the documentation lead somewhere, and to the line that they name."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")


def broken_links(page: Path, text: str) -> list[str]:
    """Return the local links of a page whose file is missing, or whose line does not define the name."""
    found = []
    for label, target in LINK.findall(text):
        if "://" in target or target.startswith("#"):
            continue
        name, _, line = target.partition("#L")
        file = page.parent / name.partition("#")[0]
        if not file.exists():
            found.append(f"{page.name}: {target} does not exist")
        elif line:
            wanted = label.strip("`").rpartition(".")[2]
            definition = re.compile(rf"\s*(class|def) {wanted}\b")
            lines = [
                n for n, source in enumerate(file.read_text().splitlines(), 1) if definition.match(source)
            ]
            if int(line) not in lines:
                found.append(
                    f"{page.name}: {target} is not the definition of {wanted}, which is in line {lines}"
                )
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page):
    assert broken_links(page, page.read_text()) == []


def test_broken_links_are_found():
    text = (
        "[a](nowhere.md) [`LevelRule`](projects/htd/modeling/cascade/rois.py#L1) [b](LICENSE) [c](http://x/y)"
    )
    assert [line.split()[1] for line in broken_links(ROOT / "README.md", text)] == [
        "nowhere.md",
        "projects/htd/modeling/cascade/rois.py#L1",
    ]
