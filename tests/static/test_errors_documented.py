"""Every message of an error stands in docs/errors.md, and that page quotes nothing that nobody says."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import pytest

from tests.static.source import PACKAGE, ROOT, Source, all_sources

PAGE = ROOT / "docs/errors.md"
OTHERS = "\n## Messages of others\n"  # heading of the page's second part
SHIPPED = (f"{PACKAGE}/", "configs/", "tools/", "train_net.py")
SETUP = ROOT / "tools/setup_env.sh"  # its messages are on the page, too
HOLE = "…"  # stands for what is known at run time only, in the templates here and on the page
SHORTEST = 12  # characters of fixed text that one can search for
# These and their subclasses carry a message to the user.
ERRORS = {"UserError", "SourceError", "PatchError", "ImportError"}
# Functions that return the text of a message, or sentences of it: path -> names.
MAKERS = {
    f"{PACKAGE}/requirements.py": {"find_problem"},
    f"{PACKAGE}/checkpoint/report.py": {"failure"},
    f"{PACKAGE}/checkpoint/diagnose.py": {
        "other_boxes",
        "other_decoder",
        "_system",
        "_backbone",
        "_fitting",
        "_parts",
        "_classes",
    },
}
# Messages without words of their own: path: template -> where the words come from.
WORDLESS = {
    f"{PACKAGE}/engine/launch.py: {HOLE}": "what another process raised",
    f"{PACKAGE}/checkpoint/convert.py: {HOLE}": "made by a function of MAKERS",
    f"{PACKAGE}/checkpoint/diagnose.py: another detector": "fills a hole of the message that follows",
    f"tools/convert_checkpoint.py: {HOLE} for {HOLE}: {HOLE}": "puts two names before another message",
    f"tools/pure_detectron2/source.py: {HOLE}; pip says: {HOLE}": "quotes pip",
}


class Message(NamedTuple):
    """Where a message is made, and its text with holes."""

    path: str
    line: int
    template: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.template}"


def template(node: ast.expr) -> str:
    """The text of an expression with HOLE for each part that is not literal, runs of white space as one."""
    text = "".join(_pieces(node))
    return re.sub(f"{HOLE}+", HOLE, " ".join(text.split()))


def _pieces(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        for value in node.values:
            yield from _pieces(value)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        yield from (*_pieces(node.left), *_pieces(node.right))
    else:
        yield HOLE


def error_names(sources: Iterable[Source]) -> set[str]:
    """ERRORS and the names of all classes that are derived from them."""
    bases = {
        node.name: {_name(base) for base in node.bases}
        for source in sources
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ClassDef)
    }
    names = set(ERRORS)
    while found := {name for name in bases if bases[name] & names} - names:
        names |= found
    return names


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def messages(source: Source, names: set[str]) -> Iterator[Message]:
    """What the errors of one file say."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and _name(node.func) in names:
            yield Message(source.path, node.lineno, template(node.args[0]) if node.args else "")
        elif isinstance(node, ast.FunctionDef) and node.name in MAKERS.get(source.path, ()):
            for statement in node.body[bool(ast.get_docstring(node)) :]:
                yield from (m for m in texts(source.path, statement) if _searchable(m.template))


def texts(path: str, tree: ast.AST) -> Iterator[Message]:
    """Each string of a tree, those of a logger with HOLE for %s and its like."""
    inner = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp) and node not in inner:
            text = re.sub(r"%[-\d.]*[a-z]", HOLE, template(node))
            yield Message(path, getattr(node, "lineno", 0), text)


def _searchable(text: str) -> bool:
    return sum(len(part.strip()) for part in text.split(HOLE)) >= SHORTEST and " " in text


def quotations(page: str) -> list[str]:
    """What the first cells of the tables in the page's first part have in code font."""
    cells = [line.split("|")[1] for line in page.partition(OTHERS)[0].splitlines() if line.startswith("|")]
    return [" ".join(span.split()) for cell in cells for span in re.findall(r"`([^`]+)`", cell)]


def undocumented(found: Iterable[Message], quoted: list[str]) -> list[str]:
    """The messages of which the page quotes nothing, as ``path:line: template``."""
    wrong = []
    for message in found:
        if not any(span in message.template for span in quoted):
            excused = f"{message.path}: {message.template}" in WORDLESS
            wrong += [] if excused else [str(message)]
    return wrong


def unquoted(quoted: Iterable[str], said: list[str]) -> list[str]:
    """What the page quotes and nobody says, or what is too short to be searched for."""
    return [span for span in quoted if not _searchable(span) or not any(span in text for text in said)]


SHIPPED_SOURCES = [source for source in all_sources() if source.path.startswith(SHIPPED)]
NAMES = error_names(SHIPPED_SOURCES)
MESSAGES = [message for source in SHIPPED_SOURCES for message in messages(source, NAMES)]
PLANTED = "the planted frobnicator is out of order"


def test_every_message_is_documented():
    assert undocumented(MESSAGES, quotations(PAGE.read_text())) == []


def test_the_page_quotes_what_is_said():
    said = [text.template for source in SHIPPED_SOURCES for text in texts(source.path, source.tree)]
    assert unquoted(quotations(PAGE.read_text()), [*said, SETUP.read_text()]) == []


def test_the_page_has_both_parts_and_each_group():
    own, heading, _ = PAGE.read_text().partition(OTHERS)
    assert heading and own.count("\n## ") >= 8 and len(quotations(own)) > 100


def test_exceptions_are_still_needed():
    assert set(WORDLESS) <= {f"{message.path}: {message.template}" for message in MESSAGES}
    assert {(path, name) for path in MAKERS for name in MAKERS[path]} == {
        (source.path, node.name)
        for source in SHIPPED_SOURCES
        for node in ast.walk(source.tree)
        if isinstance(node, ast.FunctionDef) and node.name in MAKERS.get(source.path, ())
    }


@pytest.mark.parametrize(
    "code",
    [
        f"raise UserError({PLANTED!r})",
        f"def f(x):\n    return UserError(f'{{x}}: {PLANTED} ({{x!r}})' + x)",
        f"raise errors.UserError('the planted' + '{PLANTED[11:]}')",
        f"class A(UserError):\n    pass\nclass B(A, ValueError):\n    pass\nraise B({PLANTED!r}) from error",
        "raise SourceError(\n    'the planted  frobnicator '\n    'is\\nout of order'\n)",
    ],
)
def test_an_undocumented_message_is_found(code):
    assert re.fullmatch(
        rf"tools/planted\.py:\d+: .*{PLANTED}.*", *planted(code, ["frobnicators", "not this"])
    )
    assert planted(code, ["frobnicators", PLANTED[4:]]) == []


@pytest.mark.parametrize(
    "code", ["text = 'x'\nraise UserError(text)", "raise UserError('{} is wrong'.format(3))", "UserError()"]
)
def test_a_message_without_words_is_found(code):
    assert len(planted(code, [PLANTED])) == 1


def planted(code: str, quoted: list[str]) -> list[str]:
    source = Source.parse("tools/planted.py", code)
    return undocumented(messages(source, error_names([source])), quoted)


def test_a_sentence_of_a_message_is_found():
    path = f"{PACKAGE}/requirements.py"
    text = f'def find_problem():\n    "A docstring of it."\n    return f"{{name}}: {PLANTED}"\n'
    assert undocumented(messages(Source.parse(path, text), ERRORS), []) == [f"{path}:3: {HOLE}: {PLANTED}"]


def test_a_quotation_of_nothing_is_found():
    page = f"| message |\n| --- |\n| `{PLANTED}`, `gone for a long time`, `is a` | `not looked at` |\n"
    page += f"{OTHERS}| `of another project` |\n"
    assert unquoted(quotations(page), [f"{HOLE} {PLANTED}", "is a"]) == ["gone for a long time", "is a"]
