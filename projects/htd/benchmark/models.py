"""Whole models, each measured in a process of its own, in turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from detectron2.config import instantiate
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from htd.benchmark import ROOT
from htd.benchmark.inputs import synthetic_input
from htd.benchmark.measure import PeakMemory, Table, megabytes, milliseconds, return_freed_memory, seconds
from htd.engine.config import load_config

INFERENCE = ("inference_bytes", "inference_seconds")
TRAINING = ("training_bytes", "training_seconds")


def load_model_config(path: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Return the model of a leaf; a relative path starts from ``configs/``."""
    return load_config(str(ROOT / "configs" / path), overrides).model


@dataclass(frozen=True)
class Settings:
    """What is measured, and how.

    Attributes:
        size: (height, width) of the images.
        images: batch size of whole models.
        rois: RoIs of single operators.
        repeat: rounds after the first; the results are their medians.
        threads: of torch on a CPU.
        device: where the models run.
        overrides: changes of all configs.
        model_config: maps the path of a leaf and overrides to the config of a model.
        separate_processes: measure each model in a process of its own, so that it does not inherit memory.
    """

    size: tuple[int, int] = (800, 1333)
    images: int = 1
    rois: int = 1000
    repeat: int = 5
    threads: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    overrides: tuple[str, ...] = ()
    model_config: Callable[[str, Sequence[str]], DictConfig] = load_model_config
    separate_processes: bool = True

    def model(self, path: str, *overrides: str) -> nn.Module:
        """Build the model of a leaf with random weights."""
        return instantiate(self.model_config(path, (*self.overrides, *overrides)))


class Candidate(NamedTuple):
    """A model to measure.

    Attributes:
        label: its name in a table.
        build: returns the model for given settings; called in another process, so it has to be importable.
        masks: type of the masks that it is trained with, see :func:`htd.benchmark.inputs.synthetic_input`.
    """

    label: str
    build: Callable[[Settings], nn.Module]
    masks: str = "bitmask"


class MeasuredModel:
    """A model with its inputs. Each public method returns one figure, of a whole batch."""

    def __init__(self, candidate: Candidate, settings: Settings):
        self.device = settings.device
        torch.manual_seed(0)
        self.peak = PeakMemory(self.device)
        self.model = candidate.build(settings).to(self.device)
        self.inputs = [synthetic_input(settings.size, candidate.masks) for _ in range(settings.images)]
        trained = [p for p in self.model.parameters() if p.requires_grad]
        # With a learning rate of 0 every step starts from the same weights and costs the same.
        self.optimizer = torch.optim.SGD(trained, lr=0.0, momentum=0.9)

    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    def multiply_adds(self) -> float:
        """Count the multiply-adds of an inference while it runs."""
        self.model.eval()
        with FlopCounterMode(display=False, custom_mapping=FLOPS) as counter:
            self.infer()
        return counter.get_total_flops() / 2

    def detections(self) -> int:
        return sum(len(output["instances"]) for output in self.infer())

    def inference_seconds(self) -> float:
        return self._time(self.infer)

    def training_seconds(self) -> float:
        return self._time(self.train)

    def inference_bytes(self) -> float:
        """Return the peak memory of an inference, model included."""
        self.peak.reset()
        self.infer()
        return self.peak.bytes()

    def training_bytes(self) -> float:
        """Return the peak memory of a training step, model and optimizer included."""
        # The optimizer allocates its momentum in the first step.
        for parameter in self.optimizer.param_groups[0]["params"]:
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.peak.reset()
        self.train()
        return self.peak.bytes()

    def infer(self) -> list[dict]:
        self.model.eval()
        with torch.no_grad():
            return self.model(self.inputs)

    def train(self) -> None:
        self.model.train()
        with EventStorage():  # Detectron2's models write to it
            losses = self.model(self.inputs)
        sum(value for name, value in losses.items() if name.startswith("loss")).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _time(self, run: Callable[[], object]) -> float:
        if self.device.type == "cuda":
            run()  # allocates again what was returned to the device
        time = seconds(run, self.device)
        return_freed_memory(self.device)  # for the models that wait
        return time


def measure_models(
    candidates: Sequence[Candidate], settings: Settings, figures: Sequence[str]
) -> list[dict[str, float]]:
    """Measure models on synthetic images and targets.

    They take turns, so that another program on the machine slows all of them alike.

    Args:
        candidates: the models.
        settings: how to measure.
        figures: names of methods of :class:`MeasuredModel`, called in this order. A figure in ``_bytes`` also
            warms the model up; the median of those in ``_seconds`` is taken over ``settings.repeat`` rounds.

    Returns:
        The figures of each model by name.
    """
    with _models(candidates, settings) as measure:
        medians: list[dict[str, float]] = [{} for _ in candidates]
        for figure in figures:
            repeat = settings.repeat if figure.endswith("_seconds") else 1
            rounds = [[ask(figure) for ask in measure] for _ in range(repeat)]
            for of_model, values in zip(medians, zip(*rounds, strict=True), strict=True):
                of_model[figure] = median(values)
    return medians


def compare_models(
    candidates: Sequence[Candidate], settings: Settings, figures: tuple[str, str], group: int = 0
) -> Table:
    """Return a table of time, memory, and the ratio of the time to that of the first model of a group.

    Args:
        candidates: the models, those of a group next to each other.
        settings: how to measure.
        figures: ``INFERENCE`` or ``TRAINING``.
        group: models per group; 0 if all are one group.
    """
    measured = measure_models(candidates, settings, figures)
    peak, time = figures
    rows = []
    for i, (candidate, values) in enumerate(zip(candidates, measured, strict=True)):
        first = measured[i - i % (group or len(candidates))]
        ratio = f"{values[time] / first[time]:.3f}"
        rows.append([candidate.label, milliseconds(values[time]), ratio, megabytes(values[peak])])
    return Table([time.removesuffix("_seconds"), "ms", "ratio", "MB"], rows)


def compare_configs(paths: Sequence[str], settings: Settings, train: bool) -> Table:
    """Return a table of parameters, multiply-adds, time and memory of the models of any configs."""
    candidates = [Candidate(path, LeafModel(str(Path(path).resolve()))) for path in paths]
    for candidate in candidates:  # a mistake in a config or an override is found before anything is measured
        settings.model_config(candidate.build.path, settings.overrides)
    figures = (*INFERENCE, "parameters", "multiply_adds", *(TRAINING if train else ()))
    rows = []
    for candidate, values in zip(candidates, measure_models(candidates, settings, figures), strict=True):
        row = [candidate.label, f"{values['parameters'] / 1e6:.2f}", f"{values['multiply_adds'] / 1e9:.2f}"]
        for peak, time in (INFERENCE, TRAINING):
            row += [milliseconds(values.get(time, float("nan"))), megabytes(values.get(peak, float("nan")))]
        rows.append(row)
    return Table(["config", "M params", "G mult-adds", "inference ms", "MB", "training ms", "MB"], rows)


class LeafModel:
    """Builds the model of a leaf with random weights.

    Args:
        path: of the leaf, see :func:`load_model_config`.
        overrides: further changes of the config.
        change: takes the model and returns it changed; importable.
    """

    def __init__(self, path: str, *overrides: str, change: Callable[[nn.Module], nn.Module] | None = None):
        self.path = path
        self.overrides = overrides
        self.change = change

    def __call__(self, settings: Settings) -> nn.Module:
        model = settings.model(self.path, *self.overrides)
        return self.change(model) if self.change else model


@contextmanager
def _models(candidates: Sequence[Candidate], settings: Settings) -> Iterator[list[Callable[[str], float]]]:
    """Yield a function for each model that measures the figure of a name."""
    with ExitStack() as stack:
        if settings.separate_processes:
            pools = [stack.enter_context(ProcessPoolExecutor(1, get_context("spawn"))) for _ in candidates]
            pairs = zip(candidates, pools, strict=True)
            yield [partial(_measure_in, pool, candidate, settings) for candidate, pool in pairs]
        else:
            models = [MeasuredModel(candidate, settings) for candidate in candidates]
            yield [partial(_measure, model) for model in models]


def _measure(model: MeasuredModel, figure: str) -> float:
    return getattr(model, figure)()


def _measure_in(pool: ProcessPoolExecutor, candidate: Candidate, settings: Settings, figure: str) -> float:
    return pool.submit(_measure_here, candidate, settings, figure).result()


def _measure_here(candidate: Candidate, settings: Settings, figure: str) -> float:
    """Measure in the process of a pool, which keeps its model."""
    if not _kept:
        torch.set_num_threads(settings.threads)
        _kept.append(MeasuredModel(candidate, settings))
    return _measure(_kept[0], figure)


_kept: list[MeasuredModel] = []


def _deform_conv_flops(input_shape, weight_shape, *others, out_shape, **settings) -> int:
    """Count the matrix product only; reading samples is not counted for any operator."""
    return 2 * out_shape[0] * out_shape[2] * out_shape[3] * weight_shape.numel()


def _product_flops(input_shape, first_shape, second_shape, *others, out_shape, **settings) -> int:
    return 2 * first_shape.numel() * second_shape[2]


# Operators that torch's counter does not know.
FLOPS = {
    torch.ops.torchvision.deform_conv2d: _deform_conv_flops,
    torch.ops.aten.baddbmm_: _product_flops,
}
