"""The benchmarks of T-Head and of TOOD beside ATSS."""

from functools import partial

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import benchmark
import benchmark_models
import benchmark_tood
from benchmark_components import COMPONENTS
from benchmark_models import COUNTED, ModelCost, Subject
from htd.modeling.tood import TaskDecomposition

SMALL = ("--size", "64", "96", "--repeat", "1")
TOYS = {"_ATSS": "configs/demo/atss_toy.py", "_TOOD": "configs/demo/tood_toy.py"}


def measured_here(candidates, settings):
    subjects = [(candidate.label, Subject(candidate, settings)) for candidate in candidates]
    return [ModelCost(label, {f: getattr(x, f)() for f in settings.figures}) for label, x in subjects]


def test_multiplications_of_task_decomposition_are_counted():
    part = TaskDecomposition(channels=16, num_layers=3, attention_dim=4, num_groups=4)
    layers, pooled = [torch.rand(2, 16, 5, 7) for _ in range(3)], torch.rand(2, 48, 1, 1)
    with FlopCounterMode(display=False, custom_mapping=COUNTED) as counter:
        part(layers, pooled)
    attention, mixture = 2 * (48 * 4 + 4 * 3), 2 * 35 * 16 * 48
    assert counter.get_total_flops() == 2 * (attention + mixture)


@pytest.mark.parametrize("name", ["sampled_boxes", "task_decomposition"])
def test_operators_print_both_phases(monkeypatch, capsys, name):
    monkeypatch.setattr(benchmark_tood, "FINEST", (6, 8))
    assert name in COMPONENTS
    benchmark.main(["--component", name, "--repeat", "1"])
    _, _, _, forward, backward = capsys.readouterr().out.splitlines()
    assert "forward  " in forward and "forward + backward" in backward


def test_folded_weights_are_scaled_layers():
    weights, kernel = torch.rand(1, 6), torch.rand(256, 6 * 256, 1, 1)
    layers = [torch.rand(1, 256, 3, 4) for _ in range(6)]
    forms = [partial(form, weights, kernel) for form in (benchmark_tood._scaled, benchmark_tood._folded)]
    torch.testing.assert_close(*(form(*layers) for form in forms))


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("tood_inference", ["ATSS", "TOOD"]),
        ("tood_training", ["ATSS", "TOOD, initial phase", "TOOD, aligned phase"]),
    ],
)
def test_models_beside_atss(monkeypatch, capsys, name, rows):
    # In this process: what a process of its own is for, memory and a fair share of time, is not looked at.
    monkeypatch.setattr(benchmark_models, "measure_models", measured_here)
    for constant, leaf in TOYS.items():
        monkeypatch.setattr(benchmark_tood, constant, leaf)
    benchmark.main(["--component", name, *SMALL])
    _, _, _, *lines = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]
    assert [row[0] for row in cells] == rows
    assert cells[0][2] == "1.000" and all(float(row[1]) > 0 for row in cells)
