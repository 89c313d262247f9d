"""The table of the environment: what it says of each kind of Detectron2 and of each evaluation package."""

from importlib.metadata import PackageNotFoundError

import pytest

from htd import collect_env as module
from htd.collect_env import collect_env, evaluation_backend
from htd.evaluation.backends import choose_backend


@pytest.fixture
def installed(monkeypatch):
    """Play an environment: versions by name, and whether Detectron2's compiled module is there."""

    def play(compiled: bool, **versions: str) -> dict[str, str]:
        def version(name):
            if name not in versions:
                raise PackageNotFoundError(name)
            return versions[name]

        def find_spec(name):
            present = compiled if name == "detectron2._C" else name in versions
            return object() if present else None

        monkeypatch.setattr(module, "version", version)
        monkeypatch.setattr(module.importlib.util, "find_spec", find_spec)
        return rows(collect_env())

    return play


def rows(text: str) -> dict[str, str]:
    """The table as name -> value; every row has both."""
    width = len(text.splitlines()[0]) - len(text.splitlines()[0][4:].lstrip())
    return {line[:width].rstrip(): line[width:] for line in text.splitlines()}


def test_pure_build(installed):
    table = installed(False, detectron2="0.5+pure.1", hotcoco="1.3.0")
    assert table["detectron2"] == "0.5+pure.1 (pure Python, no detectron2._C)"
    assert table["unavailable"] == "rotated boxes, Detectron2's DeformConv, FCOS"
    assert table["COCO evaluation"] == "hotcoco 1.3.0"


def test_official_build(installed):
    table = installed(True, detectron2="0.6", pycocotools="2.0.11")
    assert table["detectron2"] == "0.6 (official, detectron2._C present)"
    assert table["unavailable"] == "-"
    assert table["COCO evaluation"] == "detectron2._C"


def test_official_source_without_compiled_code(installed):
    table = installed(False, detectron2="0.6", pycocotools="2.0.11")
    assert table["detectron2"] == "0.6 (no detectron2._C)"
    assert table["unavailable"] == "rotated boxes, Detectron2's DeformConv"
    assert table["COCO evaluation"] == "pycocotools 2.0.11 (slow; pip install hotcoco)"


def test_nothing_installed(installed):
    table = installed(False)
    assert table["detectron2"] == "NOT INSTALLED: python tools/install_detectron2.py"
    assert table["COCO evaluation"] == "none"


def test_this_environment():
    table = rows(collect_env())
    assert table["torchvision ops"] == "loaded"
    assert table["COCO evaluation"] == evaluation_backend()
    assert "NOT" not in table["detectron2"]


def test_names_what_the_evaluator_chooses():
    assert evaluation_backend().startswith(choose_backend("auto")[0])
