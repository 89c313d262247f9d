"""Table and plot of the comparison."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from statistics import mean

from matplotlib.figure import Figure

from compare_cells import Cell, Form, Pair

_HEAD = ("detector", "strength", "AP", "AP75", "Pearson", "Spearman", "n", "M parameters", "ms per image")
_PANELS = {"Pearson of score and IoU": "pearson", "box AP": "AP"}
_COLOURS = ("tab:blue", "tab:gray")  # of a system, and of what it changes
Results = dict[Cell, dict]


def figures_of(result: dict, least_iou: str = "0.1") -> dict[str, float]:
    """Return the figures of a cell by name, NaN for what is not defined."""
    values = {name: result[name] for name in ("AP", "AP50", "AP75", "parameters", "candidates")}
    values |= result["correlation"][least_iou]
    return {name: math.nan if value is None else value for name, value in values.items()}


def rows_of(results: Results, form: Form, strength: float) -> list[dict[str, float]]:
    """Return the figures of a form at a strength, one seed after the other."""
    return [figures_of(result) for cell, result in results.items() if cell[:2] == (form, strength)]


def markdown(results: Results, pairs: Sequence[Pair], strengths: Sequence[float], times: dict) -> str:
    """Return the table: means over seeds, and the least and the largest value where there are several.

    Args:
        results: what was measured of the finished cells.
        pairs: what is compared.
        strengths: of the toy data.
        times: name of a config -> seconds for an image.
    """
    lines = [_line(_HEAD), _line(["---"] * len(_HEAD))]
    for form in (form for pair in pairs for form in pair):
        for strength in strengths:
            rows = rows_of(results, form, strength)
            if not rows:
                continue
            cells = [form.title, f"{strength:g}", _spread(rows, "AP", 1), _spread(rows, "AP75", 1)]
            cells += [_spread(rows, "pearson", 3), _spread(rows, "spearman", 3), _spread(rows, "n", 0)]
            time = times.get(form.config)
            cells += [f"{rows[0]['parameters'] / 1e6:.2f}", f"{1e3 * time:.1f}" if time else "-"]
            lines.append(_line(cells))
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _spread(rows: Sequence[dict[str, float]], name: str, digits: int) -> str:
    values = [row[name] for row in rows]
    if any(map(math.isnan, values)):
        return ", ".join("-" if math.isnan(value) else f"{value:.{digits}f}" for value in values)
    text = f"{mean(values):.{digits}f}"
    ends = f" ({min(values):.{digits}f} to {max(values):.{digits}f})" if len(values) > 1 else ""
    return text + ends


def table_csv(results: Results, times: dict) -> str:
    """Return a row for each cell and each least IoU."""
    lines = io.StringIO()
    writer = None
    for cell, result in results.items():
        for least in result["correlation"]:
            row = {"config": cell.form.config, "strength": cell.strength, "seed": cell.seed}
            row |= {"least_iou": least, **figures_of(result, least)}
            row["seconds_per_image"] = times.get(cell.form.config, math.nan)
            if writer is None:
                writer = csv.DictWriter(lines, row)
                writer.writeheader()
            writer.writerow(row)
    return lines.getvalue()


def plot(results: Results, pairs: Sequence[Pair], strengths: Sequence[float]) -> bytes:
    """Return a PNG: a column a pair, correlation above and AP below, over the strength; a point a seed."""
    figure = Figure(figsize=(1 + 2.6 * len(pairs), 5.5), layout="constrained")
    panels = figure.subplots(len(_PANELS), len(pairs), sharex=True, sharey="row", squeeze=False)
    for (label, name), row in zip(_PANELS.items(), panels, strict=True):
        row[0].set_ylabel(label)
        for pair, panel in zip(pairs, row, strict=True):
            for form, colour in zip(pair, _COLOURS, strict=True):
                _draw(panel, [(s, rows_of(results, form, s)) for s in strengths], name, colour, form.title)
            panel.grid(alpha=0.3)
    for panel in panels[0]:
        panel.legend(fontsize="small")
    for panel in panels[-1]:
        panel.set_xlabel("strength of the misalignment")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    return picture.getvalue()


def _draw(panel, series: list[tuple[float, list[dict]]], name: str, colour: str, title: str) -> None:
    """Draw a line through the means over seeds, and the seeds as points."""
    series = [(strength, [row[name] for row in rows]) for strength, rows in series if rows]
    panel.plot([s for s, _ in series], [mean(values) for _, values in series], color=colour, label=title)
    points = [(strength, value) for strength, values in series for value in values]
    panel.scatter([x for x, _ in points], [y for _, y in points], color=colour, s=14)
