"""What became of every tensor of a conversion."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

# Lines of a message that are seen at a glance.
_GLANCE = 10


@dataclass
class ConversionReport:
    """Account of one conversion; ``str(report)`` is the summary that the tool prints.

    "published" names are those of the file, "our" names those of the model.

    Attributes:
        format: short name of the source format.
        title: how messages call it.
        used: published name → our name, for what was taken.
        aliases: published name → the published name taken in its place (both are one tensor).
        ignored: published name → why it is left out.
        counters: our names of unused batch counters that the file lacks; they begin at zero.
        new: our names that begin anew, as the caller allowed.
        unmatched: published name → our name, or None where no rule knows it; not in the model.
        missing: our names that the file does not fill.
        mismatched: our name → (published name, its shape, our shape).
        conflicts: our name → the published names that should be equal and are not.
        hints: what is probably wrong, one sentence each.
    """

    format: str
    title: str
    used: dict[str, str] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    counters: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    unmatched: dict[str, str | None] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    mismatched: dict[str, tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    conflicts: dict[str, list[str]] = field(default_factory=dict)
    hints: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether the conversion was one to one."""
        return not (self.unmatched or self.missing or self.mismatched or self.conflicts)

    def __str__(self) -> str:
        filled = len(self.used) + len(self.counters)
        size = filled + len(self.new) + len(self.missing) + len(self.mismatched)
        lines = [
            f"source format: {self.title} ({self.format})",
            f"filled from the file: {filled} of the model's {size} tensors",
        ]
        lines += _grouped("second names of a tensor already taken", self.aliases)
        lines += [
            f"ignored: {count} ({reason})" for reason, count in sorted(Counter(self.ignored.values()).items())
        ]
        lines += _grouped("counters begun at zero", self.counters)
        lines += _grouped("begin anew", self.new)
        lines += _grouped("in the file, not in the model", self.unmatched)
        lines += _grouped("in the model, not in the file", self.missing)
        lines += _grouped("shapes differ", self.mismatched)
        lines += _grouped("names of one tensor with different values", self.conflicts)
        return "\n".join([*lines, *self.hints])

    def failure(self) -> str:
        """Return the text of the error that lists every tensor that keeps the conversion from being whole."""
        lines = [f"{self.title} weights do not fit this model one to one.", *self.hints]
        lines += _listed(
            "in the file, not in the model",
            (f"{key} -> {ours}" if ours else key for key, ours in self.unmatched.items()),
        )
        lines += _listed("in the model, not in the file", self.missing)
        lines += _listed(
            "shapes differ",
            (
                f"{ours}: {theirs} has {list(found)}, the model {list(wanted)}"
                for ours, (theirs, found, wanted) in self.mismatched.items()
            ),
        )
        lines += _listed(
            "names of one tensor with different values",
            (f"{ours}: {', '.join(keys)}" for ours, keys in self.conflicts.items()),
        )
        # Behind long lists what to do stands once more.
        return "\n".join([*lines, *self.hints] if len(lines) > _GLANCE else lines)


def _grouped(title: str, names: Iterable[str]) -> list[str]:
    """Return one line with the number of names under each first two parts, none without names."""
    groups = Counter(".".join(name.split(".")[:2]) for name in names)
    if not groups:
        return []
    parts = ", ".join(f"{group} {count}" for group, count in groups.items())
    return [f"{title}: {groups.total()} ({parts})"]


def _listed(title: str, lines: Iterable[str]) -> list[str]:
    found = [f"    {line}" for line in lines]
    return [f"  {title} ({len(found)}):", *found] if found else []
