"""The benchmark command: its figures, its tables and its errors."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig
from torchvision.ops import deform_conv2d as torchvision_deform_conv2d

import benchmark
from benchmark_components import COMPONENTS
from benchmark_inputs import random_regions
from benchmark_measure import PeakMemory, compare
from benchmark_models import Settings, Subject, config_candidates
from htd.engine.config import load_config
from htd.errors import UserError
from htd.layers import deform_conv2d

CPU = torch.device("cpu")
TOY = ("configs/demo/htd_toy.py", "configs/demo/faster_rcnn_toy.py")
SETTINGS = Settings((96, 128), images=2, figures=(), repeat=1, threads=1, device="cpu")


def test_component_prints_both_sides(monkeypatch, capsys):
    def stand_in(repeat, device):
        big, small = (torch.rand(n, n) for n in (600, 6))
        return [compare("a product", lambda: big @ big, lambda: small @ small, repeat, device)]

    monkeypatch.setitem(COMPONENTS, "stand_in", stand_in)
    benchmark.main(["--component", "stand_in", "--repeat", "3"])
    title, head, _, row = capsys.readouterr().out.splitlines()
    assert title.startswith("stand_in: CPU, 1 thread(s)")
    assert head.split()[-4:] == ["reference", "MB", "ours", "MB"]
    name, reference, ours, ratio, *_ = (cell for cell in row.split("  ") if cell)
    assert name == "a product"
    assert float(reference) > float(ours)
    assert float(ratio) > 1


@pytest.mark.skipif(not PeakMemory(CPU).bytes() >= 0, reason="the resident set is known on Linux only")
def test_peak_memory_sees_what_was_freed():
    # In a fresh process: what other tests have left behind may be handed back meanwhile.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        freed, kept = pool.submit(rises_of_memory).result()
    assert 38e6 < freed < 60e6
    assert 4e6 <= kept < 20e6


def rises_of_memory():
    """Return the peak after 40 MB that were freed, and after 4 MB that were kept."""
    peak = PeakMemory(CPU)
    torch.ones(10_000_000).sum()
    freed = peak.bytes()
    kept = torch.ones(1_000_000)
    peak.forget()
    return freed, peak.bytes() if len(kept) else 0


def test_regions_lie_in_the_image():
    boxes, levels = random_regions(50)
    assert (boxes >= 0).all()
    assert (boxes[:, 2:] <= torch.tensor([1333.1, 800.1])).all()
    assert levels.unique().tolist() == [0, 1, 2, 3]


def test_whole_model_figures():
    subject = Subject(config_candidates(TOY[:1], ())[0], SETTINGS)
    assert subject.parameters() == sum(p.numel() for p in subject.model.parameters())
    assert subject.multiply_adds() > 1e6
    before = [p.detach().clone() for p in subject.model.parameters()]
    assert subject.inference_seconds() > 0
    assert subject.training_seconds() > 0
    assert all(torch.equal(p, q) for p, q in zip(subject.model.parameters(), before, strict=True))


def test_multiply_adds_of_a_deformable_convolution():
    class Convolution(torch.nn.Module):
        def __init__(self, convolve):
            super().__init__()
            self.convolve, self.weight = convolve, torch.randn(6, 4, 3, 3)

        def forward(self, inputs):
            return self.convolve(inputs, torch.zeros(2, 18, 8, 8), self.weight, padding=1)

    for convolve in (deform_conv2d, torchvision_deform_conv2d):
        subject = Subject.__new__(Subject)
        subject.model, subject.inputs = Convolution(convolve), torch.randn(2, 4, 8, 8)
        assert subject.multiply_adds() == 2 * 8 * 8 * 6 * 4 * 9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--component", "nothing"], "no component 'nothing': choose from roi_align, .*, htc_memory, "),
        (["--component", "roi_align", "--repeat", "0"], "--repeat is 0"),
        (["--component", "roi_align", "--device", "gpu"], "--device is 'gpu': write cpu, cuda or"),
        (["--component", "roi_align", "--device", "meta"], "--device is 'meta': write cpu"),
        (["--component", "roi_align", "--device", "cuda:99"], "--device is cuda:99, but .* no such GPU"),
        (["--config-file", TOY[0], "--size", "0", "10"], "--size is 0 10: both have to be at least 32"),
        (["--config-file", "configs/demo/htd_to.py"], "did you mean configs/demo/htd_toy.py"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        benchmark.main(arguments)


def test_the_score_threshold_of_every_config_is_an_override():
    leaves = [
        path
        for folder in ("htd", "htc", "tood", "baselines", "demo")
        for path in Path("configs", folder).glob("*.py")
    ]
    for path in leaves:
        plain = LazyConfig.load(str(path)).model
        part = "roi_heads" if "roi_heads" in plain else "postprocessing"
        config = load_config(str(path), (f"model.{part}.selection.score_threshold=0.25",))
        assert config.model[part].selection.score_threshold == 0.25


@pytest.mark.slow
@pytest.mark.parametrize("name", ["roi_align", "deform_conv"])
def test_operators_are_faster_than_their_reference(name):
    for row in COMPONENTS[name](3, CPU):
        assert row.seconds < row.reference_seconds, row


@pytest.mark.slow
def test_models_side_by_side(capsys):
    flags = ["--size", "96", "128", "--repeat", "1", "--train"]
    benchmark.main(["--config-file", TOY[0], "--config-file", TOY[1], *flags])
    rows = capsys.readouterr().out.splitlines()[-2:]
    assert [row.split()[0] for row in rows] == list(TOY)
    assert all("-" not in row.split()[1:] for row in rows)
