"""Times of the comparison: a file of measurements, of which a table shows one and never mixes several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from compare_cells import Form
from runs import read_json, write_json


def known_times(file: Path, setup: dict[str, float], forms: Sequence[Form]) -> dict:
    """Return the latest measurement that holds all forms.

    Args:
        file: of :func:`add_times`; it need not be there.
        setup: what the measurement has to agree in.
        forms: that have taken turns in it, maybe with others.

    Returns:
        ``setup``, and ``seconds``: name of a config -> seconds for an image. Empty if there is none.
    """
    configs = {form.config for form in forms}
    found = [known for known in _read(file) if known["setup"] == setup and configs <= known["seconds"].keys()]
    return found[-1] if found else {}


def add_times(file: Path, setup: dict[str, float], forms: Sequence[Form], seconds: Sequence[float]) -> None:
    """Add a measurement in place of those with the same setup that hold none but its forms."""
    new = {form.config: value for form, value in zip(forms, seconds, strict=True)}
    kept = [old for old in _read(file) if old["setup"] != setup or old["seconds"].keys() - new.keys()]
    write_json(file, {"measurements": [*kept, {"setup": setup, "seconds": new}]})


def _read(file: Path) -> list[dict]:
    return read_json(file).get("measurements", []) if file.is_file() else []
