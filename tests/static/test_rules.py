"""The rules of ``rules.py`` hold in every file, and each of them finds what it forbids."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.static.rules import INNOCENT, MACHINE_PATH, RULES, Rule
from tests.static.source import PACKAGE, ROOT, Source, all_sources

TOP_LEVEL = {
    *("projects", "configs", "tools", "tests", "docs", ".ci"),
    *("train_net.py", "setup.py", "pyproject.toml", "Makefile", ".gitignore"),
    *("README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff"),
}
# What tools, editors and runs leave there; .gitignore keeps it out of the project.
LEFT_BEHIND = re.compile(
    r"\.(git|venv|idea|vscode|hypothesis|.*_cache)|.*\.egg-info|build|dist|output|datasets"
)


def unexpected_names(names: set[str]) -> set[str]:
    """The top-level names that the project's tree does not have."""
    return {name for name in names - TOP_LEVEL if not LEFT_BEHIND.fullmatch(name)}


def hollow_packages(root: Path) -> list[str]:
    """Folders of the package that hold no code but an ``__init__.py``, and folders without one."""
    folders = {file.parent for file in root.rglob("*.py")}
    hollow = [folder for folder in folders if {file.name for file in folder.glob("*.py")} == {"__init__.py"}]
    unnamed = [folder for folder in folders if not (folder / "__init__.py").exists()]
    return sorted(folder.relative_to(root).as_posix() for folder in {*hollow, *unnamed})


@pytest.mark.parametrize("rule", {rule.name: rule for rule in RULES}.values(), ids=lambda rule: rule.name)
def test_rule_holds(rule: Rule):
    assert [violation for source in all_sources() for violation in rule.violations(source)] == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.name}: {rule.planted[1][:40]!r}")
def test_rule_finds_what_it_forbids(rule: Rule):
    assert len(rule.violations(Source.parse(*rule.planted))) == 1
    assert rule.where == ("",) or not rule.violations(Source.parse("docs/planted.py", rule.planted[1]))


@pytest.mark.parametrize("rule", {rule.name: rule for rule in RULES}.values(), ids=lambda rule: rule.name)
def test_rule_lets_the_innocent_pass(rule: Rule):
    assert rule.violations(Source.parse(f"{PACKAGE}/layers/innocent.py", INNOCENT)) == []


def test_no_path_of_a_machine_in_other_files():
    files = [ROOT / name for name in TOP_LEVEL] + [ROOT / ".ci/run", ROOT / "tools/setup_env.sh"]
    files += (ROOT / "docs").glob("*.md")
    texts = {path: path.read_text() for path in files if path.is_file()}
    assert ROOT / "Makefile" in texts
    assert [path for path, text in texts.items() if MACHINE_PATH.search(text)] == []


def test_tree_is_the_agreed_one():
    assert unexpected_names({path.name for path in ROOT.iterdir()}) == set()
    assert unexpected_names({"projects", ".venv", ".ruff_cache", "htd.egg-info", "output"}) == set()
    assert unexpected_names({"src", "train.py", "notes.txt"}) == {"src", "train.py", "notes.txt"}


def test_no_hollow_package(tmp_path):
    assert hollow_packages(ROOT / PACKAGE) == []
    for name in ("full/__init__.py", "full/code.py", "stub/__init__.py", "unnamed/code.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "__init__.py").touch()
    (tmp_path / "code.py").touch()
    assert hollow_packages(tmp_path) == ["stub", "unnamed"]
