"""Whole models of configs, each in a process of its own, measured in turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from statistics import median
from typing import NamedTuple

import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmark_measure import PeakMemory, seconds
from htd.engine.config import load_config

OBJECTS = 8  # of the synthetic targets, an image


class Settings(NamedTuple):
    """What is measured: ``size`` is (height, width) of the ``images`` of a batch."""

    size: tuple[int, int]
    images: int
    training: bool
    repeat: int
    threads: int
    device: str
    overrides: tuple[str, ...]


class ModelCost(NamedTuple):
    """Figures of one model; times are medians a batch, training figures None where it was not asked for."""

    config_file: str
    parameters: int
    multiply_adds: float  # of the inference
    seconds: float
    bytes: float
    training_seconds: float | None
    training_bytes: float | None


def measure_models(config_files: Sequence[str], settings: Settings) -> list[ModelCost]:
    """Measure the models of configs with random weights on synthetic images and targets.

    Each has its process, so that none inherits another's memory; they take turns, so that another program
    on the machine slows all of them alike.

    Raises:
        UserError: a config is not there or an override is wrong.
    """
    for path in config_files:
        load_config(path, settings.overrides)
    context = get_context("spawn")
    workers = []
    for path in config_files:
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there, path, settings), daemon=True)
        process.start()
        workers.append((process, here))
    try:
        return _in_turns(config_files, [pipe for _, pipe in workers], settings)
    finally:
        for process, _ in workers:
            process.terminate()
            process.join()


def _in_turns(
    config_files: Sequence[str], pipes: Sequence[Connection], settings: Settings
) -> list[ModelCost]:
    def ask_all(question: str, times: int = 1) -> list[list]:
        rounds = [[_ask(pipe, question) for pipe in pipes] for _ in range(times)]
        return [list(answers) for answers in zip(*rounds, strict=True)]

    def measure(phase: str) -> list[tuple[float, float]]:
        warm_up_bytes = ask_all(f"{phase}_bytes")
        times = ask_all(f"{phase}_seconds", settings.repeat)
        return [(median(t), b[0]) for t, b in zip(times, warm_up_bytes, strict=True)]

    inference = measure("inference")
    training = measure("training") if settings.training else [(None, None)] * len(pipes)
    parameters, multiply_adds = ask_all("parameters"), ask_all("multiply_adds")
    return [
        ModelCost(path, p[0], m[0], *i, *t)
        for path, p, m, i, t in zip(config_files, parameters, multiply_adds, inference, training, strict=True)
    ]


def _ask(pipe: Connection, question: str):
    pipe.send(question)
    answer = pipe.recv()
    if isinstance(answer, Exception):
        raise answer
    return answer


def _serve(pipe: Connection, config_file: str, settings: Settings) -> None:
    torch.set_num_threads(settings.threads)
    try:
        subject = _Subject(config_file, settings)
    except Exception as error:
        subject, failure = None, error
    while True:
        question = pipe.recv()
        try:
            pipe.send(failure if subject is None else getattr(subject, question)())
        except Exception as error:
            pipe.send(RuntimeError(f"{config_file}, {question}: {type(error).__name__}: {error}"))


class _Subject:
    """A model with its inputs; the methods are what a worker is asked."""

    def __init__(self, config_file: str, settings: Settings):
        self.device = torch.device(settings.device)
        torch.manual_seed(0)
        self.peak = PeakMemory(self.device)
        self.model: nn.Module = instantiate(load_config(config_file, settings.overrides).model).to(
            self.device
        )
        self.inputs = [synthetic_input(settings.size) for _ in range(settings.images)]
        trained = [p for p in self.model.parameters() if p.requires_grad]
        # A rate of 0: the same step can be repeated, and costs what any other would.
        self.optimizer = torch.optim.SGD(trained, lr=0.0, momentum=0.9)

    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    def multiply_adds(self) -> float:
        # Counted while the model runs: a traced one would have the example's decisions built in.
        operators = {torch.ops.torchvision.deform_conv2d: _deform_conv_flops}
        self.model.eval()
        with FlopCounterMode(display=False, custom_mapping=operators) as counter:
            self._infer()
        return counter.get_total_flops() / 2

    def inference_seconds(self) -> float:
        self.model.eval()
        return seconds(self._infer, self.device)

    def training_seconds(self) -> float:
        self.model.train()
        return seconds(self._train, self.device)

    def inference_bytes(self) -> float:
        return self._rise(self.inference_seconds)

    def training_bytes(self) -> float:
        return self._rise(self.training_seconds)

    def _rise(self, run: Callable[[], float]) -> float:
        run()
        return self.peak.bytes()

    def _infer(self) -> None:
        with torch.no_grad():
            self.model(self.inputs)

    def _train(self) -> None:
        losses = self.model(self.inputs)
        sum(value for name, value in losses.items() if name.startswith("loss")).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def synthetic_input(size: tuple[int, int]) -> dict:
    """Return an image (3, height, width) of noise with objects of class 0, as a Detectron2 model takes it."""
    height, width = size
    corner = torch.rand(OBJECTS, 2) * 0.7
    boxes = torch.cat([corner, corner + 0.05 + torch.rand(OBJECTS, 2) * 0.25], dim=1)
    instances = Instances(size)
    instances.gt_boxes = Boxes(boxes * torch.tensor([width, height, width, height]))
    instances.gt_classes = torch.zeros(OBJECTS, dtype=torch.int64)
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    return {"image": image, "height": height, "width": width, "instances": instances}


def _deform_conv_flops(input_shape, weight_shape, *others, out_shape, **settings) -> int:
    """Those of the product; the reading of samples is counted nowhere."""
    return 2 * out_shape[0] * out_shape[2] * out_shape[3] * weight_shape.numel()
