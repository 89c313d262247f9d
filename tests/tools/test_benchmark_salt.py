"""The benchmarks of SALT-Net beside GFL, and of dense detectors with the operator beside themselves."""

import pytest
import torch

import benchmark
import benchmark_models
import benchmark_salt
from htd.modeling.salt import SALTOperator
from htd.modeling.salt.operator import tap_offsets
from tests.tools.test_benchmark_tood import SMALL, measured_here

GFL, SALT = "configs/demo/gfl_toy.py", "configs/demo/salt_toy.py"


def test_points_are_spread():
    torch.manual_seed(0)
    operator = benchmark_salt.spread(SALTOperator(32, 1))
    maps, seen = torch.rand(1, 32, 5, 5), []
    operator.regression.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1]))
    operator(maps, maps, 0)
    points = (seen[0] - tap_offsets(torch.zeros_like(seen[0]))).unflatten(1, (9, 2))
    assert points.std(dim=1).min() > 1  # cells, both ways


def test_without_operator_nothing_else_changes():
    plain, whole = (
        form(SALT) for form in (benchmark_salt.without_operator, benchmark_salt.spread_from_config)
    )
    count = {
        name: sum(p.numel() for p in model.parameters())
        for name, model in (("plain", plain), ("whole", whole))
    }
    assert not any(isinstance(part, SALTOperator) for part in plain.modules())
    operator = sum(p.numel() for p in whole.head.towers.operator.parameters())
    assert count["whole"] - count["plain"] == operator > 0


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("salt_inference", ["GFL", "SALT-Net", "SALT-Net without operator"]),
        ("salt_training", ["GFL", "SALT-Net"]),
        ("salt_plug_ins_inference", ["GFL", "GFL + SALT"]),
    ],
)
def test_models_beside_their_first(monkeypatch, capsys, name, rows):
    # In this process: what a process of its own is for, memory and a fair share of time, is not looked at.
    monkeypatch.setattr(benchmark_models, "measure_models", measured_here)
    monkeypatch.setattr(benchmark_salt, "_GFL", GFL)
    monkeypatch.setattr(benchmark_salt, "_SALT", SALT)
    monkeypatch.setattr(benchmark_salt, "_HOSTS", {"gfl": [GFL, SALT]})
    benchmark.main(["--component", name, *SMALL])
    _, _, _, *lines = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]
    assert [row[0] for row in cells] == rows
    assert cells[0][2] == "1.000" and all(float(row[1]) > 0 for row in cells)
