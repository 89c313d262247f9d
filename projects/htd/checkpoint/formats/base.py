"""What a key map consists of: names of published files, and where each tensor belongs in our models."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor

from htd.layers import ContinuousBoxes

COUNTER = "num_batches_tracked"
Transform = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Rule:
    """One published name pattern and the parameter that it stands for.

    Two names of one file may lead to the same parameter (an alias); their values must be equal.

    Attributes:
        pattern: regular expression of the whole published name.
        target: our name, as a template for ``re.Match.expand``.
        transform: what has to be done to the values, for layouts that differ; None: nothing.
        beside: a published name, as a template like ``target``: the rule is about files that have it, too.
            For names that stand for different parts, which only their neighbors tell. None: any file.
    """

    pattern: str
    target: str
    transform: Transform | None = None
    beside: str | None = None

    def place(self, key: str, keys: Collection[str] = ()) -> str | None:
        """Return our name of the ``key`` of a file with ``keys``, None if the rule is not about it."""
        match = re.fullmatch(self.pattern, key)
        if match is None or (self.beside is not None and match.expand(self.beside) not in keys):
            return None
        return match.expand(self.target)

    def in_our_layout(self, value: Tensor) -> Tensor:
        """Return the values as our parameter has them; a scalar, which has no layout, as it is."""
        return self.transform(value) if self.transform and value.dim() else value


@dataclass(frozen=True)
class Ignored:
    """Published names that are left out on purpose: pattern of the whole name, and the reason."""

    pattern: str
    reason: str


@dataclass(frozen=True)
class Known:
    """A kind of file that is recognized by its keys.

    Attributes:
        name: short name, as in ``--source``.
        title: how messages call it.
        marks: regular expressions; the file is of this kind if each is found in one of the keys and
            no kind that stands earlier in the list claims the file.
    """

    name: str
    title: str
    marks: tuple[str, ...]

    def claims(self, keys: Collection[str]) -> bool:
        """Tell whether the keys carry all marks."""
        return _found(self.marks, keys)


@dataclass(frozen=True)
class Foreign(Known):
    """A kind of file that is recognized but has no key map; ``advice`` says what to do with it."""

    advice: str


@dataclass(frozen=True)
class Format(Known):
    """The key map of one published format.

    Attributes:
        rules: the first one that fits a name counts.
        ignored: names that are left out on purpose.
        model_marks: as ``marks``, for our names: tell which system a model is of. Formats of one system
            have the same.
        configs: our configs that published files of this format fit.
        convention: what the corners of boxes meant in training, a class of
            :mod:`htd.layers.boxes`; None: the file does not tell.
        decoder: class of a dense model's ``decoder``, which its parameters do not show; None: any.
        classifier_rows: what the rows of a classifier stand for, in words.
        overrides: what a config has to be overridden by to take a published file; the configs themselves are
            for new trainings.
        rows_before: from the rows of a published classifier, those of a model for the same classes without
            the overrides.
    """

    rules: tuple[Rule, ...]
    ignored: tuple[Ignored, ...]
    model_marks: tuple[str, ...]
    configs: tuple[str, ...]
    convention: type[ContinuousBoxes] | None
    decoder: type | None = None
    classifier_rows: str = "one a class, one for the background"
    overrides: tuple[str, ...] = ()
    rows_before: Callable[[int], int] = int

    def owns(self, names: Collection[str], decoder: object | None = None) -> bool:
        """Tell whether a model's parameter names carry all marks and its decoder, if it is known, fits."""
        return self.is_for(decoder) and _found(self.model_marks, names)

    def is_for(self, decoder: object | None) -> bool:
        """Tell whether boxes are coded as a dense model's decoder wants them; None: there is none."""
        return None in (self.decoder, decoder) or isinstance(decoder, self.decoder)

    def same_system(self, other: Format) -> bool:
        """Tell whether models of both formats are of one system."""
        return (self.model_marks, self.decoder) == (other.model_marks, other.decoder)

    def place(self, key: str, keys: Collection[str] = ()) -> tuple[str, Rule] | None:
        """Return our name of the ``key`` of a file with ``keys``, and the rule that gave it."""
        for rule in self.rules:
            target = rule.place(key, keys)
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


def _found(marks: Iterable[str], names: Collection[str]) -> bool:
    return all(any(pattern.search(name) for name in names) for pattern in map(re.compile, marks))
