"""Table and plot of the comparison."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from statistics import mean

from matplotlib.figure import Figure

from htd.benchmark.comparison import Form, Pair, Training

HEAD = ("detector", "strength", "AP", "AP75", "Pearson", "Spearman", "n", "M parameters", "ms per image")
PANELS = {"Pearson of score and IoU": "pearson", "box AP": "AP"}
Results = dict[Training, dict]


def values_of(result: dict, least_iou: str = "0.1") -> dict[str, float]:
    """Return the figures of a training by name, NaN for what is not defined."""
    values = {name: result[name] for name in ("AP", "AP50", "AP75", "parameters", "candidates")}
    values |= result["correlation"][least_iou]
    return {name: math.nan if value is None else value for name, value in values.items()}


def values_per_seed(results: Results, form: Form, strength: float) -> list[dict[str, float]]:
    """Return the figures of a form at a strength, one dict per seed."""
    return [values_of(result) for training, result in results.items() if training[:2] == (form, strength)]


def markdown(
    results: Results, pairs: Sequence[Pair], strengths: Sequence[float], seconds: dict[str, float]
) -> str:
    """Return the table: means over seeds and, if there are several, the least and the largest value.

    Args:
        results: of the finished trainings.
        pairs, strengths: rows of the table.
        seconds: name of a config -> seconds per image.
    """
    lines = [_line(HEAD), _line(["---"] * len(HEAD))]
    for form in (form for pair in pairs for form in pair):
        for strength in strengths:
            values = values_per_seed(results, form, strength)
            if not values:
                continue
            cells = [form.title, f"{strength:g}", _spread(values, "AP", 1), _spread(values, "AP75", 1)]
            cells += [_spread(values, "pearson", 3), _spread(values, "spearman", 3), _spread(values, "n", 0)]
            time = seconds.get(form.config)
            cells += [f"{values[0]['parameters'] / 1e6:.2f}", f"{1e3 * time:.1f}" if time else "-"]
            lines.append(_line(cells))
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _spread(values_per_seed: Sequence[dict[str, float]], name: str, digits: int) -> str:
    values = [values[name] for values in values_per_seed]
    if any(map(math.isnan, values)):
        return ", ".join("-" if math.isnan(value) else f"{value:.{digits}f}" for value in values)
    ends = f" ({min(values):.{digits}f} to {max(values):.{digits}f})" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{ends}"


def table_csv(results: Results, seconds: dict[str, float]) -> str:
    """Return a line for each training and each least IoU."""
    text = io.StringIO()
    writer = None
    for training, result in results.items():
        for least in result["correlation"]:
            row = {"config": training.form.config, "strength": training.strength, "seed": training.seed}
            row |= {"least_iou": least, **values_of(result, least)}
            row["seconds_per_image"] = seconds.get(training.form.config, math.nan)
            if writer is None:
                writer = csv.DictWriter(text, row)
                writer.writeheader()
            writer.writerow(row)
    return text.getvalue()


def plot(results: Results, pairs: Sequence[Pair], strengths: Sequence[float]) -> bytes:
    """Return a PNG: one column per pair, correlation above and AP below, over the strength."""
    figure = Figure(figsize=(1 + 2.6 * len(pairs), 5.5), layout="constrained")
    panels = figure.subplots(len(PANELS), len(pairs), sharex=True, sharey="row", squeeze=False)
    for (label, name), row in zip(PANELS.items(), panels, strict=True):
        row[0].set_ylabel(label)
        for pair, panel in zip(pairs, row, strict=True):
            for form, color in zip(pair, ("tab:blue", "tab:gray"), strict=True):
                per_strength = [(s, values_per_seed(results, form, s)) for s in strengths]
                points = [(s, values[name]) for s, seeds in per_strength for values in seeds]
                means = [(s, mean(v[name] for v in seeds)) for s, seeds in per_strength if seeds]
                panel.plot(*_columns(means), color=color, label=form.title)
                panel.scatter(*_columns(points), color=color, s=14)
            panel.grid(alpha=0.3)
    for panel in panels[0]:
        panel.legend(fontsize="small")
    for panel in panels[-1]:
        panel.set_xlabel("strength of the misalignment")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    return picture.getvalue()


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
