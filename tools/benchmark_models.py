"""Whole models, each in a process of its own, measured in turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from statistics import median
from typing import NamedTuple

import torch
from detectron2.config import instantiate
from detectron2.utils.events import EventStorage
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmark_inputs import synthetic_input
from benchmark_measure import PeakMemory, hand_back_memory, seconds
from benchmark_tables import Table, number
from htd.engine.config import load_config


class Candidate(NamedTuple):
    """A model to measure.

    Attributes:
        label: its name in a table.
        build: returns the model; called in another process, so it has to be importable.
        masks: format of the masks it is trained on, see :func:`synthetic_input`.
    """

    label: str
    build: Callable[[], nn.Module]
    masks: str = "bitmask"


class Settings(NamedTuple):
    """How models are measured.

    Attributes:
        size: (height, width) of the images.
        images: of a batch.
        figures: names of the methods of a subject, asked in this order; those in ``_seconds`` ``repeat``
            times, the models in turns, after one run for warmth if that of ``_bytes`` stands before.
        repeat: rounds.
        threads: of torch on the CPU.
        device: its name.
    """

    size: tuple[int, int]
    images: int
    figures: tuple[str, ...]
    repeat: int
    threads: int
    device: str


class ModelCost(NamedTuple):
    """The figures of one model by name; times are medians, of a batch as all figures are."""

    label: str
    figures: dict[str, float]


def from_config(path: str, overrides: Sequence[str] = ()) -> nn.Module:
    """Return the model of a config with random weights."""
    return instantiate(load_config(path, overrides).model)


def config_candidates(paths: Sequence[str], overrides: Sequence[str]) -> list[Candidate]:
    """Return the models of configs.

    Raises:
        UserError: a config is not there or an override is wrong.
    """
    for path in paths:
        load_config(path, overrides)
    return [Candidate(path, partial(from_config, path, tuple(overrides))) for path in paths]


def measure_models(candidates: Sequence[Candidate], settings: Settings) -> list[ModelCost]:
    """Measure models on synthetic images and targets.

    Each has its process, so that none inherits another's memory; they take turns, so that another program
    on the machine slows all of them alike.
    """
    context = get_context("spawn")
    workers = []
    for candidate in candidates:
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there, candidate, settings), daemon=True)
        process.start()
        workers.append((process, here))
    try:
        figures = _in_turns([pipe for _, pipe in workers], settings)
    finally:
        for process, _ in workers:
            process.terminate()
            process.join()
    return [ModelCost(candidate.label, found) for candidate, found in zip(candidates, figures, strict=True)]


def measure_alone(candidates: Sequence[Candidate], settings: Settings) -> list[ModelCost]:
    """Measure models one after the other, so that one alone takes memory at a time."""
    return [measure_models([candidate], settings)[0] for candidate in candidates]


def beside_the_first(
    candidates: Sequence[Candidate], figures: tuple[str, str], settings: Settings, group: int
) -> Table:
    """Return a table of models with the ratio of each one's time to that of the first of its group.

    Args:
        candidates: models; those of a group follow each other.
        figures: one in ``_bytes`` and one in ``_seconds``.
        settings: how to measure; its figures are not read.
        group: models of a group.
    """
    found = [cost.figures for cost in measure_models(candidates, settings._replace(figures=figures))]
    megabytes, seconds = figures
    rows = []
    for i, (candidate, cost) in enumerate(zip(candidates, found, strict=True)):
        first = found[i - i % group]
        times = number(1e3 * cost[seconds]), f"{cost[seconds] / first[seconds]:.3f}"
        rows.append([candidate.label, *times, number(1e-6 * cost[megabytes])])
    return Table([seconds.removesuffix("_seconds"), "ms", "ratio", "MB"], rows)


def _in_turns(pipes: Sequence[Connection], settings: Settings) -> list[dict[str, float]]:
    found: list[dict[str, float]] = [{} for _ in pipes]
    for figure in settings.figures:
        times = settings.repeat if figure.endswith("_seconds") else 1
        rounds = [[_ask(pipe, figure) for pipe in pipes] for _ in range(times)]
        for of_model, answers in zip(found, zip(*rounds, strict=True), strict=True):
            of_model[figure] = median(answers)
    return found


def _ask(pipe: Connection, question: str):
    pipe.send(question)
    answer = pipe.recv()
    if isinstance(answer, Exception):
        raise answer
    return answer


def _serve(pipe: Connection, candidate: Candidate, settings: Settings) -> None:
    torch.set_num_threads(settings.threads)
    try:
        subject = Subject(candidate, settings)
    except Exception as error:
        subject, failure = None, error
    while True:
        question = pipe.recv()
        try:
            pipe.send(failure if subject is None else getattr(subject, question)())
        except Exception as error:
            pipe.send(RuntimeError(f"{candidate.label}, {question}: {type(error).__name__}: {error}"))


class Subject:
    """A model with its inputs; its methods without arguments are the figures that can be asked for."""

    def __init__(self, candidate: Candidate, settings: Settings):
        self.device = torch.device(settings.device)
        torch.manual_seed(0)
        self.peak = PeakMemory(self.device)
        self.model = candidate.build().to(self.device)
        self.inputs = [synthetic_input(settings.size, candidate.masks) for _ in range(settings.images)]
        trained = [p for p in self.model.parameters() if p.requires_grad]
        # A rate of 0: the same step can be repeated, and costs what any other would.
        self.optimizer = torch.optim.SGD(trained, lr=0.0, momentum=0.9)

    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    def multiply_adds(self) -> float:
        """Count those of the inference."""
        # Counted while the model runs: a traced one would have the example's decisions built in.
        self.model.eval()
        with FlopCounterMode(display=False, custom_mapping=COUNTED) as counter:
            self._infer()
        return counter.get_total_flops() / 2

    def detections(self) -> int:
        return sum(len(output["instances"]) for output in self._infer())

    def inference_seconds(self) -> float:
        return self._timed(self._infer)

    def training_seconds(self) -> float:
        return self._timed(self._train)

    def inference_bytes(self) -> float:
        """Return how far memory rises over that of the process without a model."""
        self.peak.forget()
        self._infer()
        return self.peak.bytes()

    def training_bytes(self) -> float:
        """Return how far memory rises over that of the process without a model."""
        # A first step would not have the momentum yet that all others have.
        for parameter in self.optimizer.param_groups[0]["params"]:
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.peak.forget()
        self._train()
        return self.peak.bytes()

    def _timed(self, run: Callable[[], object]) -> float:
        if self.device.type == "cuda":
            run()  # takes again what was handed back
        time = seconds(run, self.device)
        hand_back_memory(self.device)  # to the models that wait
        return time

    def _infer(self) -> list[dict]:
        self.model.eval()
        with torch.no_grad():
            return self.model(self.inputs)

    def _train(self) -> None:
        self.model.train()
        with EventStorage():  # Detectron2's models write to it
            losses = self.model(self.inputs)
        sum(value for name, value in losses.items() if name.startswith("loss")).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def _deform_conv_flops(input_shape, weight_shape, *others, out_shape, **settings) -> int:
    """Those of the product; the reading of samples is counted nowhere."""
    return 2 * out_shape[0] * out_shape[2] * out_shape[3] * weight_shape.numel()


def _product_flops(input_shape, first_shape, second_shape, *others, out_shape, **settings) -> int:
    """Those of a batch of matrix products that is added in place."""
    return 2 * first_shape.numel() * second_shape[2]


# Operators that torch's counter does not know.
COUNTED = {
    torch.ops.torchvision.deform_conv2d: _deform_conv_flops,
    torch.ops.aten.baddbmm_: _product_flops,
}
