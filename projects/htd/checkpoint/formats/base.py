"""What a key map consists of: names of published files, and where each tensor belongs in our models."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor

COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Rule:
    """One published name pattern and the parameter that it stands for.

    Two names of one file may lead to the same parameter (an alias); their values must be equal.

    Attributes:
        pattern: regular expression of the whole published name.
        target: our name, as a template for ``re.Match.expand``.
        transform: what has to be done to the values, for layouts that differ; None: nothing.
    """

    pattern: str
    target: str
    transform: Callable[[Tensor], Tensor] | None = None

    def place(self, key: str) -> str | None:
        """Return our name of the published ``key``, None if the rule is not about it."""
        match = re.fullmatch(self.pattern, key)
        return match.expand(self.target) if match else None


@dataclass(frozen=True)
class Ignored:
    """Published names that are left out on purpose: pattern of the whole name, and the reason."""

    pattern: str
    reason: str


@dataclass(frozen=True)
class Known:
    """A kind of file that is recognised by its keys.

    Attributes:
        name: short name, as in ``--source``.
        title: how messages call it.
        mark: regular expression; the file is of this kind if it is found in one of the keys and
            no kind that stands earlier in the list claims the file.
    """

    name: str
    title: str
    mark: str

    def claims(self, keys: Iterable[str]) -> bool:
        """Tell whether one of the keys carries the mark."""
        return _found(self.mark, keys)


@dataclass(frozen=True)
class Foreign(Known):
    """A kind of file that is recognised but has no key map; ``advice`` says what to do with it."""

    advice: str


@dataclass(frozen=True)
class Format(Known):
    """The key map of one published format.

    Attributes:
        rules: the first one that fits a name counts.
        ignored: names that are left out on purpose.
        model_mark: as ``mark``, for our names: tells which system a model is of.
        configs: our configs that published files of this format fit.
    """

    rules: tuple[Rule, ...]
    ignored: tuple[Ignored, ...]
    model_mark: str
    configs: tuple[str, ...]

    def owns(self, names: Iterable[str]) -> bool:
        """Tell whether one of a model's parameter names carries the mark."""
        return _found(self.model_mark, names)

    def place(self, key: str) -> tuple[str, Rule] | None:
        """Return our name of the published ``key`` and the rule that gave it."""
        for rule in self.rules:
            target = rule.place(key)
            if target is not None:
                return target, rule
        return None

    def reason_to_ignore(self, key: str) -> str | None:
        """Return why the published ``key`` is left out, None if it is not."""
        return next((entry.reason for entry in self.ignored if re.fullmatch(entry.pattern, key)), None)


def renumbered(pattern: str, target: str, numbers: dict[int, int]) -> Iterator[Rule]:
    """Yield one rule for each published number, ``#`` standing for it in both names."""
    for theirs, ours in numbers.items():
        yield Rule(pattern.replace("#", str(theirs)), target.replace("#", str(ours)))


def _found(mark: str, names: Iterable[str]) -> bool:
    pattern = re.compile(mark)
    return any(pattern.search(name) for name in names)
