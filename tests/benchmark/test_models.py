"""Figures of whole models, and the memory that they are measured with."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import deform_conv2d as torchvision_deform_conv2d

from htd.benchmark.measure import PeakMemory, Table
from htd.benchmark.models import FLOPS, Candidate, LeafModel, MeasuredModel, Settings, compare_configs
from htd.layers import deform_conv2d
from htd.modeling.tood import TaskDecomposition

CPU = torch.device("cpu")
TOY = "demo/faster_rcnn_toy.py"


@pytest.mark.skipif(not PeakMemory(CPU).bytes() >= 0, reason="the resident set is known on Linux only")
def test_peak_memory_includes_what_was_freed():
    # In a fresh process: what other tests have freed may be returned meanwhile.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        freed, kept = pool.submit(memory_peaks).result()
    assert 38e6 < freed < 60e6
    assert 4e6 <= kept < 20e6


def memory_peaks():
    """Return the peak after 40 MB that were freed, and after 4 MB that were kept."""
    peak = PeakMemory(CPU)
    torch.ones(10_000_000).sum()
    freed = peak.bytes()
    kept = torch.ones(1_000_000)
    peak.reset()
    return freed, peak.bytes() if len(kept) else 0


def test_measuring_leaves_the_model_as_it_was():
    measured = MeasuredModel(Candidate(TOY, LeafModel(TOY)), Settings((96, 128), images=2))
    assert measured.parameters() == sum(p.numel() for p in measured.model.parameters())
    assert measured.multiply_adds() > 1e6
    before = [p.detach().clone() for p in measured.model.parameters()]
    for figure in ("inference_seconds", "training_seconds", "inference_bytes", "training_bytes"):
        assert getattr(measured, figure)() > 0
    assert all(torch.equal(p, q) for p, q in zip(measured.model.parameters(), before, strict=True))


def count(function, *inputs, **settings):
    with FlopCounterMode(display=False, custom_mapping=FLOPS) as counter:
        function(*inputs, **settings)
    return counter.get_total_flops() / 2


@pytest.mark.parametrize("convolve", [deform_conv2d, torchvision_deform_conv2d])
def test_multiply_adds_of_a_deformable_convolution(convolve):
    inputs = torch.randn(2, 4, 8, 8), torch.zeros(2, 18, 8, 8), torch.randn(6, 4, 3, 3)
    assert count(convolve, *inputs, padding=1) == 2 * 8 * 8 * 6 * 4 * 9


def test_multiply_adds_of_task_decomposition():
    part = TaskDecomposition(channels=16, num_layers=3, attention_dim=4, num_groups=4)
    layers, pooled = [torch.rand(2, 16, 5, 7) for _ in range(3)], torch.rand(2, 48, 1, 1)
    assert count(part, layers, pooled) == 2 * (48 * 4 + 4 * 3) + 2 * 35 * 16 * 48


def test_a_config_in_a_process_of_its_own():
    leaf = f"configs/{TOY}"
    (row,) = compare_configs([leaf], Settings((64, 96), repeat=1), train=True).rows
    assert row[0] == leaf and all(float(cell) >= 0 for cell in row[1:])


def test_columns_of_a_table_are_aligned():
    table = str(Table(["name", "ms"], [["a", "1"], ["longer", "100"]]))
    assert table.splitlines() == ["name     ms", "------  ---", "a         1", "longer  100"]
