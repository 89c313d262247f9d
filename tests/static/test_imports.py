"""Imports run one way: layers, modeling, then data, engine, evaluation and their like, then the commands."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.static.source import PACKAGE, Source, all_sources, imported_modules

# Each part and its level: a part imports only from lower levels and from itself. What stands on the top level
# meets in the commands, as arguments or as objects of a config.
LEVELS = {
    "errors": 0,
    "files": 1,
    "requirements": 0,
    "segmentation": 0,
    "collect_env": 1,
    "layers": 1,
    "modeling": 2,
    "data": 3,
    "evaluation": 3,
    "analysis": 3,
    "checkpoint": 3,
    "visualize": 3,
    "engine": 4,
    "benchmark": 5,
}
# One folder a paper: papers share code through the others, never with each other.
PAPERS = {"htc", "htd", "salt", "tood", "tsd"}
# Tensors in, tensors out.
UNKNOWN_TO_LAYERS = tuple(
    f"detectron2.{name}"
    for name in ("structures", "utils", "config", "data", "engine", "evaluation", "checkpoint")
)
OUTSIDE = ("configs", "tests", "train_net", "tools")


def part_of(source: Source) -> str:
    """``layers`` for htd/layers/nms.py, ``errors`` for htd/errors.py, "" for htd/__init__.py."""
    name = source.path.removeprefix(f"{PACKAGE}/").partition("/")[0]
    return name.removesuffix(".py").replace("__init__", "")


def wrong_imports(source: Source) -> Iterator[str]:
    """Say for each import against the arrows where it is and why it is wrong."""
    in_package = source.path.startswith(PACKAGE)
    for line, module in imported_modules(source):
        names = module.split(".")
        reason = None
        if names[0] in OUTSIDE and in_package:
            reason = "the package imports nothing that stands outside of it"
        elif names[0] == "configs" and not source.path.startswith(("configs/", "tests/")):
            reason = "nothing imports a config"
        elif in_package and names[0] == "htd":
            reason = _wrong_edge(part_of(source), names[1:]) or _wrong_paper(source, names[1:])
        elif in_package and part_of(source) == "layers" and module.startswith(UNKNOWN_TO_LAYERS):
            reason = "layers know tensors only"
        if reason:
            yield f"{source.path}:{line}: imports {module}: {reason}"


def _wrong_edge(importer: str, imported: list[str]) -> str | None:
    if imported and imported[0] == importer:
        return None
    if importer == "":
        allowed = imported[:1] in (["modeling"], ["requirements"])
        return (
            None if allowed else "the package itself checks requirements and registers models, nothing else"
        )
    # A name of the package itself, such as htd.__version__, stands on everything that the package imports.
    level = LEVELS.get(imported[0], LEVELS["modeling"]) if imported else LEVELS["modeling"]
    if level < LEVELS[importer]:
        return None
    return f"{importer} may import from lower levels only"


def _wrong_paper(source: Source, imported: list[str]) -> str | None:
    if imported[:1] != ["modeling"] or imported[1:2] == [] or imported[1] not in PAPERS:
        return None
    folder = source.path.removeprefix(f"{PACKAGE}/modeling/").partition("/")[0]
    if folder == imported[1] or folder == "__init__.py" or part_of(source) != "modeling":
        return None
    return "what papers share stands outside of their folders"


def test_every_part_has_a_level():
    parts = {part_of(source) for source in all_sources() if source.path.startswith(PACKAGE)}
    assert parts - {""} <= set(LEVELS)


def test_no_import_against_the_arrows():
    assert [wrong for source in all_sources() for wrong in wrong_imports(source)] == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("layers/nms.py", "from htd.modeling import rcnn"),
        ("layers/nms.py", "from ..modeling.rcnn import PublishedRCNN"),
        ("layers/nms.py", "def f():\n    import htd.data"),
        ("layers/nms.py", "from detectron2.structures import Boxes"),
        ("layers/nms.py", "from htd import __version__"),
        ("modeling/rcnn.py", "from htd import engine"),
        ("modeling/rcnn.py", "from . import data\nfrom .. import data"),
        ("modeling/cascade/stage.py", "from ..htd import border_aware"),
        ("modeling/cascade/stage.py", "from htd.modeling.htd.border_aware import BorderAware"),
        ("data/loader.py", "from htd.engine import schedule"),
        ("data/loader.py", "from ..evaluation import coco"),
        ("checkpoint/formats/base.py", "from ...data import coco"),
        ("errors.py", "import htd.layers"),
        ("__init__.py", "from htd import data"),
        ("engine/trainer.py", "from configs.common import train"),
        ("engine/trainer.py", "import train_net"),
    ],
)
def test_wrong_import_is_found(path, text):
    assert len(list(wrong_imports(Source.parse(f"{PACKAGE}/{path}", text)))) == 1


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (
            "layers/nms.py",
            "from .sampling import FeatureTable\nfrom htd.errors import UserError\nimport torch",
        ),
        ("modeling/__init__.py", "from .htd import x\nfrom htd.modeling import htd, rcnn"),
        (
            "modeling/htd/heads.py",
            "from .border import x\nfrom ..cascade import stage\nfrom htd.layers import nms",
        ),
        ("data/loader.py", "from . import coco\nfrom htd.data.coco import x\nfrom htd.modeling.htd import y"),
        (
            "engine/trainer.py",
            "from htd import __version__, collect_env\nfrom detectron2.engine import hooks",
        ),
        ("__init__.py", "from htd import modeling\nfrom htd.requirements import check_requirements"),
    ],
)
def test_right_import_passes(path, text):
    assert list(wrong_imports(Source.parse(f"{PACKAGE}/{path}", text))) == []


@pytest.mark.parametrize("path", ["train_net.py", "tools/demo.py"])
def test_nothing_imports_a_config(path):
    assert list(wrong_imports(Source.parse(path, "from configs.htd.htd_r50_fpn_1x import model")))
    assert not list(wrong_imports(Source.parse(path, "from htd.engine import trainer")))
