"""The rules about source text: what each forbids, where, and an example that it has to find."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tests.static.source import PACKAGE, Source, docstrings, imported_modules, strings

Finding = tuple[int, str]
CORE = (f"{PACKAGE}/layers/", f"{PACKAGE}/modeling/")
SHIPPED = (f"{PACKAGE}/", "configs/", "tools/", "train_net.py", "setup.py")
EVERYWHERE = ("",)
_DEVICE = re.compile(r"(cuda|mps|xpu|cpu)(:\d+)?")
_ABSOLUTE_PATH = re.compile(r"(/|~/|[A-Za-z]:\\)\w[\w.-]*([/\\]|$)")
_DATASET = re.compile(r"(coco|lvis|voc|openimages)_\w")
_HOMES = "home|root|work|Users|mnt|private"
MACHINE_PATH = re.compile(rf"(?<![\w.~/-])/({_HOMES})/\w|[A-Z]:\\Users")
_OUTSIDE_MATERIAL = re.compile(r"\b(spec|cases|design|style)\.md\b|\.\./shared\b")
# Where a part stands: keys of a config, files, tools and their flags, the error of the rooms above.
_WHEREABOUTS = re.compile(
    r"\b(model|dataloader|optimizer|lr_multiplier)(\.[a-z_]+)+|\btrain\.[a-z_]+|\btools/|\btrain_net|\bconfigs/"
    r"|\bUserError\b|--[a-z]{3,}"
)
PAPERS = {"htd": "HTD", "tsd": "TSD", "htc": "HTC", "tood": "TOOD", "salt": "SALT(-Net)?"}
# Written with a gap, or this file would break its own rule.
_BRITISH = (
    "col our, cen tre, cen tring, normal is, label l, lear nt, initial is, neighb our, behavi our, gr ey, "
    "vector is, raster is, recogn is, summar is, optim is, serial is, anal yse, licen ce, model l, cancel l, "
    "fav our, regular is, general is"
)
BRITISH = re.compile("|".join(_BRITISH.replace(" ", "").split(",")), re.IGNORECASE)


# A class of old configs, and an array of a recorded case.
_OLD_NAMES = "MeanOverLabel" + "led", "normali" + "ser"


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
    yield from _strings_that_match(_DEVICE.fullmatch)(source)
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and node.attr == "cuda":
            yield node.lineno, ast.unparse(node)


def _strings_that_match(match: Callable[[str], object]) -> Callable[[Source], Iterator[Finding]]:
    return lambda source: ((line, repr(value)) for line, value in strings(source) if match(value))


def _text_matches(pattern: re.Pattern[str]) -> Callable[[Source], Iterator[Finding]]:
    def find(source: Source) -> Iterator[Finding]:
        for number, line in enumerate(source.text.splitlines(), start=1):
            for match in pattern.finditer(line):
                yield number, match[0]

    return find


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


def _whereabouts(source: Source) -> Iterator[Finding]:
    for line, text in _prose(source):
        yield from ((line, match[0]) for match in _WHEREABOUTS.finditer(text))


def _other_papers(source: Source) -> Iterator[Finding]:
    folder = source.path.removeprefix(f"{PACKAGE}/modeling/").partition("/")[0]
    others = "|".join(name for paper, name in PAPERS.items() if paper != folder)
    for line, text in _prose(source):
        paragraphs = [part for part in re.split(r"\n\s*\n", text) if "Paper:" not in part]
        yield from ((line, match[0]) for match in re.finditer(rf"\b({others})\b", "\n\n".join(paragraphs)))


def _papers_without_link(source: Source) -> Iterator[Finding]:
    for node in docstrings(source.tree):
        for paragraph in re.split(r"\n\s*\n", node.value):
            if "Paper:" in paragraph and "https://" not in paragraph:
                yield node.lineno, "a paper without a link"


def _prose(source: Source) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of docstrings, other strings and comments."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    for number, line in enumerate(source.text.splitlines(), start=1):
        if "#" in line:
            yield number, line.partition("#")[2]


def _british(source: Source) -> Iterator[Finding]:
    for line, word in _text_matches(BRITISH)(source):
        text = source.text.splitlines()[line - 1]
        if not any(f".{name}" in text or f'"{name}"' in text for name in _OLD_NAMES):
            yield line, word


_LAYER = f"{PACKAGE}/layers/planted.py"
_HEAD = f"{PACKAGE}/modeling/tsd/planted.py"
_DATA = f"{PACKAGE}/data/planted.py"
_CONFIG = "configs/planted.py"
_MACHINE = "/".join(("", "home", "someone", "coco"))  # in pieces, or this file would break its own rule

RULES = [
    Rule("no print in the package", (f"{PACKAGE}/",), _prints, (_DATA, "print('x')\n")),
    Rule(
        "no relative import in the package",
        (f"{PACKAGE}/",),
        _relative_imports,
        (_DATA, "def f():\n    from .reader import read_image\n"),
    ),
    Rule("no plotting in models", CORE, _plots, (_LAYER, "def f():\n    from matplotlib import pyplot\n")),
    Rule("no device in models", CORE, _devices, (_LAYER, "x = torch.zeros(3, device='cuda:0')\n")),
    Rule("no device in models", CORE, _devices, (_LAYER, "x = x.cuda()\n")),
    Rule("no device in models", CORE, _devices, (_LAYER, "torch.cuda.synchronize()\n")),
    Rule(
        "no absolute path in models",
        CORE,
        _strings_that_match(_ABSOLUTE_PATH.match),
        (_LAYER, f"open(f'{_MACHINE}/{{name}}')\n"),
    ),
    Rule(
        "no data set in models",
        CORE,
        _strings_that_match(_DATASET.match),
        (_LAYER, "catalog.get('coco_2017_val')\n"),
    ),
    Rule("no path of a machine", EVERYWHERE, _text_matches(MACHINE_PATH), (_CONFIG, f"# {_MACHINE}\n")),
    Rule(
        "no reference to material outside the project",
        SHIPPED,
        _text_matches(_OUTSIDE_MATERIAL),
        (_CONFIG, '"""See ' + "spec" + '.md."""\n'),
    ),
    Rule("no lambda in a config", ("configs/",), _lambdas, (_CONFIG, "x = dict(f=lambda y: y)\n")),
    Rule("each module says what it is", EVERYWHERE, _undocumented, (_CONFIG, "# no docstring\nx = 1\n")),
]
RULES += [
    Rule(
        "a part does not know where it stands",
        CORE,
        _whereabouts,
        (_LAYER, "raise ValueError('model.roi_heads.nms is wrong')\n"),
    ),
    Rule("a part does not know where it stands", CORE, _whereabouts, (_LAYER, "x = 1  # see --resume\n")),
    Rule("no other paper outside of Paper: lines", CORE, _other_papers, (_HEAD, '"""As in HTD."""\n')),
    Rule(
        "each paper has a link",
        EVERYWHERE,
        _papers_without_link,
        (_HEAD, '"""A head.\n\nPaper: "A title", section 3.\n\nSee https://a.b.\n"""\n'),
    ),
    Rule("American spelling", EVERYWHERE, _british, (_CONFIG, "cent" + "re = 1\n")),
]

# What the rules must not take for a violation.
INNOCENT = f'''\
"""Runs on cuda or cpu; 'coco_2017_val' and {_MACHINE.replace("home", "data")} are only in a docstring.

Paper: "HTD", section 1, https://arxiv.org.
"""

import torch

pattern = r"/(\\d+)"
unit = "px/stride"
name = "pixel/mean"


def scaled(x, path="annotations/val.json"):
    """Return x."""
    with torch.autocast(x.device.type, enabled=False):
        return x.to(x.device), 1 / 2, f"{{x}}/{{path}}"
'''
