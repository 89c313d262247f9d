"""setup.py: every package is shipped, and what the code imports is what it declares."""

from __future__ import annotations

import re
import runpy
import sys

import pytest
import setuptools

import htd
from tests.static.source import PACKAGE, ROOT, all_sources, imported_modules

# Imported under another name than installed.
DISTRIBUTIONS = {"PIL": "pillow", "cv2": "opencv-python-headless", "hydra": "hydra-core", "yaml": "pyyaml"}
# Detectron2 comes from tools/install_detectron2.py.
NOT_DECLARED = {*sys.stdlib_module_names, "htd", "configs", "detectron2"}


@pytest.fixture
def arguments(monkeypatch) -> dict:
    """What setup.py hands to setuptools."""
    captured: dict = {}
    monkeypatch.setattr(setuptools, "setup", captured.update)
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py")
    return captured


def distribution(requirement: str) -> str:
    """``Pillow>=10`` -> ``pillow``."""
    return re.match(r"[\w.-]+", requirement)[0].lower()


def test_every_package_is_shipped(arguments):
    folders = {file.parent for file in (ROOT / PACKAGE).rglob("__init__.py")}
    names = {".".join(folder.relative_to(ROOT / "projects").parts) for folder in folders}
    assert set(arguments["packages"]) == names
    assert arguments["version"] == htd.__version__


def test_detectron2_and_urls_are_not_declared(arguments):
    requirements = [*arguments["install_requires"], *sum(arguments["extras_require"].values(), [])]
    assert "detectron2" not in map(distribution, requirements)
    assert not [requirement for requirement in requirements if "@" in requirement or "://" in requirement]
    assert all(re.search(r"[<>]=?\d", requirement) for requirement in requirements)


def test_imports_are_declared(arguments):
    extras = arguments["extras_require"]
    requirements = [*arguments["install_requires"], *extras["eval"], *extras["crop"]]
    declared = set(map(distribution, requirements))
    undeclared = set()
    for source in all_sources():
        if source.path.startswith((PACKAGE, "configs/", "train_net.py")):
            for line, module in imported_modules(source):
                name = module.partition(".")[0]
                if name not in NOT_DECLARED and DISTRIBUTIONS.get(name, name) not in declared:
                    undeclared.add(f"{source.path}:{line}: {module}")
    assert undeclared == set()
