"""What tools/compare.py compares: pairs of small forms, and the trainings that stand in its table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from htd.engine.config import load_config
from htd.errors import UserError
from runs import ROOT


@dataclass(frozen=True)
class Form:
    """A small form of a detector.

    Attributes:
        title: its name in tables.
        config: name of its config under configs/demo, without the ending.
        fractions: key of the config -> the fraction of the iterations that it is set to; for values that
            do not follow the length of the training by themselves.
    """

    title: str
    config: str
    fractions: dict[str, float] = field(default_factory=dict, hash=False)

    @property
    def path(self) -> Path:
        """The config file."""
        return ROOT / "configs" / "demo" / f"{self.config}.py"


class Pair(NamedTuple):
    """A system and the detector that it changes."""

    system: Form
    baseline: Form


# After a third of the training TOOD's assignment changes, as in the published one.
PAIRS = {
    "htd": Pair(Form("HTD", "htd_toy"), Form("Cascade R-CNN", "cascade_rcnn_toy")),
    "tsd": Pair(Form("TSD", "tsd_faster_toy"), Form("Faster R-CNN", "faster_rcnn_toy")),
    "htc": Pair(Form("HTC", "htc_toy"), Form("Cascade Mask R-CNN", "cascade_mask_rcnn_toy")),
    "tood": Pair(Form("TOOD", "tood_toy", {"model.criterion.switch_iter": 1 / 3}), Form("ATSS", "atss_toy")),
    "salt": Pair(Form("SALT-Net", "salt_toy"), Form("GFL", "gfl_toy")),
}


class Cell(NamedTuple):
    """One training, and what is measured of it."""

    form: Form
    strength: float
    seed: int

    def __str__(self) -> str:
        return f"{self.form.config}, strength {self.strength:g}, seed {self.seed}"

    def folder(self, output: Path) -> Path:
        """Return where all of it lies."""
        return output / "cells" / self.form.config / f"strength-{self.strength:g}" / f"seed-{self.seed}"


def forms_of(systems: Sequence[str]) -> list[Form]:
    """Return each system and what it changes, in the order of the table."""
    return [form for name in systems for form in PAIRS[name]]


def all_cells(systems: Sequence[str], strengths: Sequence[float], seeds: Sequence[int]) -> list[Cell]:
    """Return the cells in the order in which they are made: all systems with one seed before the next."""
    pairs = [PAIRS[name] for name in systems]
    return [Cell(form, s, seed) for seed in seeds for pair in pairs for s in strengths for form in pair]


def check_choice(
    systems: Sequence[str], strengths: Sequence[float], seeds: Sequence[int], overrides: Sequence[str]
) -> None:
    """Check what is to be compared, the configs among it.

    Raises:
        UserError: a value is unknown, out of range or repeated, or a config cannot be read.
    """
    unknown = [name for name in systems if name not in PAIRS]
    if unknown:
        raise UserError(f"--systems: {unknown[0]!r} is unknown; choose from {', '.join(PAIRS)}")
    if any(not 0 <= strength <= 1 for strength in strengths) or any(seed < 0 for seed in seeds):
        raise UserError("--strengths have to lie between 0 and 1, --seeds have to be 0 or more")
    for flag, values in {"systems": systems, "strengths": strengths, "seeds": seeds}.items():
        if len(set(values)) < len(values):
            raise UserError(f"--{flag} names a value twice: name each one once")
    for name in systems:
        for form in PAIRS[name]:
            load_config(str(form.path), overrides)
