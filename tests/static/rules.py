"""The rules about source text: what each forbids, where, and an example that it has to find."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tests.static.source import PACKAGE, Source, imported_modules, strings

Finding = tuple[int, str]
CORE = (f"{PACKAGE}/layers/", f"{PACKAGE}/modeling/")
SHIPPED = (f"{PACKAGE}/", "configs/", "tools/", "train_net.py", "setup.py")
EVERYWHERE = ("",)
_DEVICE = re.compile(r"(cuda|mps|xpu|cpu)(:\d+)?")
_ABSOLUTE_PATH = re.compile(r"(/|~/|[A-Za-z]:\\)\w[\w.-]*([/\\]|$)")
_HOMES = "home|root|work|Users|mnt|private"
MACHINE_PATH = re.compile(rf"(?<![\w.~/-])/({_HOMES})/\w|[A-Z]:\\Users")
_OUTSIDE_MATERIAL = re.compile(r"\b(spec|cases|design|style)\.md\b|\.\./shared\b")


class Rule(NamedTuple):
    """A rule holds in files whose path starts with one of ``where``; ``planted`` (path, text) breaks it."""

    name: str
    where: tuple[str, ...]
    find: Callable[[Source], Iterator[Finding]]
    planted: tuple[str, str]

    def violations(self, source: Source) -> list[str]:
        """Each violation as ``path:line: rule: what``."""
        if not source.path.startswith(self.where):
            return []
        return [f"{source.path}:{line}: {self.name}: {what}" for line, what in self.find(source)]


def _prints(source: Source) -> Iterator[Finding]:
    for node in ast.walk(source.tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("print", "pprint")
        ):
            yield node.lineno, ast.unparse(node)


def _plots(source: Source) -> Iterator[Finding]:
    for line, module in imported_modules(source):
        if module.split(".")[0] in ("matplotlib", "PIL"):
            yield line, module
    # The older detectors' masks are defined by OpenCV's resize; all else that it has is for pictures.
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "cv2":
            if node.attr not in ("resize", "INTER_LINEAR"):
                yield node.lineno, f"cv2.{node.attr}"


def _devices(source: Source) -> Iterator[Finding]:
    for line, value in strings(source):
        if _DEVICE.fullmatch(value):
            yield line, repr(value)
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and node.attr == "cuda":
            yield node.lineno, ast.unparse(node)


def _absolute_paths(source: Source) -> Iterator[Finding]:
    for line, value in strings(source):
        if _ABSOLUTE_PATH.match(value):
            yield line, repr(value)


def _text_matches(pattern: re.Pattern[str]) -> Callable[[Source], Iterator[Finding]]:
    def find(source: Source) -> Iterator[Finding]:
        for number, line in enumerate(source.text.splitlines(), start=1):
            for match in pattern.finditer(line):
                yield number, match[0]

    return find


def _dataset_names(source: Source) -> Iterator[Finding]:
    for line, value in strings(source):
        if re.match(r"(coco|lvis|voc|openimages)_\w", value):
            yield line, repr(value)


def _lambdas(source: Source) -> Iterator[Finding]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Lambda):
            yield node.lineno, ast.unparse(node)


def _undocumented(source: Source) -> Iterator[Finding]:
    if not (ast.get_docstring(source.tree) or "").strip():
        yield 1, "no docstring of the module"


def _relative_imports(source: Source) -> Iterator[Finding]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield node.lineno, ast.unparse(node)


_LAYER = f"{PACKAGE}/layers/planted.py"
_CONFIG = "configs/planted.py"
_MACHINE = "/".join(("", "home", "someone", "coco"))  # in pieces, or this file would break its own rule

RULES = [
    Rule(
        "no print in the package", (f"{PACKAGE}/",), _prints, (f"{PACKAGE}/data/planted.py", "print('x')\n")
    ),
    Rule(
        "no relative import in the package",
        (f"{PACKAGE}/",),
        _relative_imports,
        (f"{PACKAGE}/data/planted.py", "def f():\n    from .reader import read_image\n"),
    ),
    Rule("no plotting in models", CORE, _plots, (_LAYER, "def f():\n    from matplotlib import pyplot\n")),
    Rule("no device in models", CORE, _devices, (_LAYER, "x = torch.zeros(3, device='cuda:0')\n")),
    Rule("no device in models", CORE, _devices, (_LAYER, "x = x.cuda()\n")),
    Rule("no device in models", CORE, _devices, (_LAYER, "torch.cuda.synchronize()\n")),
    Rule("no absolute path in models", CORE, _absolute_paths, (_LAYER, f"open(f'{_MACHINE}/{{name}}')\n")),
    Rule("no data set in models", CORE, _dataset_names, (_LAYER, "catalog.get('coco_2017_val')\n")),
    Rule("no path of a machine", EVERYWHERE, _text_matches(MACHINE_PATH), (_CONFIG, f"# {_MACHINE}\n")),
    Rule(
        "no reference to material outside the project",
        SHIPPED,
        _text_matches(_OUTSIDE_MATERIAL),
        (_CONFIG, '"""See ' + "spec" + '.md."""\n'),
    ),
    Rule("no lambda in a config", ("configs/",), _lambdas, (_CONFIG, "x = dict(f=lambda y: y)\n")),
    Rule(
        "each module says what it is",
        EVERYWHERE,
        _undocumented,
        (_CONFIG, "# no docstring\nx = 1\n"),
    ),
]

# What the rules must not take for a violation.
INNOCENT = f'''\
"""Runs on cuda or cpu; 'coco_2017_val' and {_MACHINE.replace("home", "data")} only stand in a docstring."""

import torch

pattern = r"/(\\d+)"
unit = "px/stride"
name = "pixel/mean"


def scaled(x, path="annotations/val.json"):
    """Return x."""
    with torch.autocast(x.device.type, enabled=False):
        return x.to(x.device), 1 / 2, f"{{x}}/{{path}}"
'''
