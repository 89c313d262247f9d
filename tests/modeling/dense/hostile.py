"""Trainings on data that no one would wish for, step by step under the trainer, and what is seen of them."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import HookBase
from detectron2.structures import Boxes, Instances

from configs.common.models.narrow import narrow_dense
from htd.engine.optim import parameter_groups
from htd.engine.phases import PhaseHook
from htd.engine.precision import Precision
from htd.engine.trainer import Trainer
from tests.configs.reduced import narrow

CLASSES = 6
SIZE = HEIGHT, WIDTH = 64, 96
STRIDES = [8, 16, 32]
# What the published trainings take for batches of 16.
RATE = 0.01


def tiny_boxes(generator: torch.Generator) -> torch.Tensor:
    """Return boxes of at most a pixel a side; some lie between all priors, some in a corner."""
    corner = torch.rand(12, 2, generator=generator) * torch.tensor([WIDTH - 1.0, HEIGHT - 1.0])
    corner[:2] = torch.tensor([[0.0, 0.0], [WIDTH - 1.0, HEIGHT - 1.0]])
    # Whole cells, so that some priors' middles lie in such boxes.
    corner[2:6] = (corner[2:6] / 8).floor() * 8 - 0.4
    return torch.cat([corner, corner + 0.2 + 0.8 * torch.rand(12, 1, generator=generator)], dim=1)


def huge_boxes(generator: torch.Generator) -> torch.Tensor:
    """Return boxes that end far outside of the image on some or all sides."""
    beyond = torch.rand(3, 4, generator=generator) * 2000
    return torch.cat([-beyond[:, :2], torch.tensor([WIDTH, HEIGHT]) + beyond[:, 2:]], dim=1)


def one_place(generator: torch.Generator) -> torch.Tensor:
    """Return one and the same box many times."""
    corner = 10 + 30 * torch.rand(1, 2, generator=generator)
    return torch.cat([corner, corner + 12], dim=1).repeat(30, 1)


def no_boxes(generator: torch.Generator) -> torch.Tensor:
    """Return none."""
    return torch.zeros(0, 4)


def ordinary_boxes(generator: torch.Generator) -> torch.Tensor:
    """Return boxes as people draw them."""
    corner = torch.rand(3, 2, generator=generator) * torch.tensor([WIDTH * 0.5, HEIGHT * 0.5])
    return torch.cat([corner, corner + 12 + 20 * torch.rand(3, 2, generator=generator)], dim=1)


KINDS = (tiny_boxes, huge_boxes, one_place, no_boxes, ordinary_boxes)


def image_of(make_boxes, generator: torch.Generator) -> dict:
    """Return a training input: noise, with objects as areas of a tint for each class."""
    boxes = make_boxes(generator)
    classes = torch.randint(0, CLASSES, (len(boxes),), generator=generator)
    image = torch.randint(0, 256, (3, *SIZE), generator=generator, dtype=torch.uint8)
    for (x1, y1, x2, y2), label in zip(boxes.round().long().tolist(), classes.tolist(), strict=True):
        tint = torch.tensor([label & 1, label >> 1 & 1, label >> 2 & 1], dtype=torch.uint8) * 127
        image[:, max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)] //= 2
        image[:, max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)] += tint[:, None, None]
    instances = Instances(SIZE, gt_boxes=Boxes(boxes), gt_classes=classes)
    return {"image": image, "instances": instances, "file_name": f"{make_boxes.__name__}.jpg"}


class HostileBatches:
    """Yields batches of two images for ever, every image once an epoch; any two kinds meet."""

    def __init__(self, kinds=KINDS, seed: int = 0, images: int = 20):
        generator = torch.Generator().manual_seed(seed)
        self.images = [image_of(kinds[i % len(kinds)], generator) for i in range(images)]

    def __iter__(self):
        generator = torch.Generator().manual_seed(1)
        while True:
            for pair in torch.randperm(len(self.images), generator=generator).view(-1, 2):
                yield [copy.copy(self.images[i]) for i in pair]


@dataclass
class Seen(HookBase):
    """Sets the rate of each step and writes down what the step did.

    Attributes:
        rate: at the end of the warm-up, which is the published one.
        losses: the sum of the losses of each step, which the trainer refuses if they are not finite.
        taken: the steps that the optimizer took.
        wild: steps that it took by a gradient that is not finite.
        factors: of the loss scaler after each step.
    """

    optimizer: torch.optim.Optimizer
    precision: Precision
    rate: float
    warmup_iters: int = 500
    losses: list[float] = field(default_factory=list)
    taken: list[int] = field(default_factory=list)
    wild: list[int] = field(default_factory=list)
    factors: list[float] = field(default_factory=list)

    def __post_init__(self):
        self.optimizer.register_step_pre_hook(self._check)

    def before_step(self):
        warm_up = min(1.0, 0.001 + 0.999 * self.trainer.iter / self.warmup_iters)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * warm_up

    def _check(self, optimizer, *_):
        self.taken.append(self.trainer.iter)
        gradients = [
            p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None
        ]
        if not torch.stack(torch._foreach_norm(gradients)).isfinite().all():
            self.wild.append(self.trainer.iter)

    def after_step(self):
        self.losses.append(self.trainer.storage.latest()["total_loss"][0])
        self.factors.append(self.precision.scaler.get_scale())

    def skipped(self, steps: int) -> list[int]:
        """Return which of the first steps the loss scaler skipped."""
        return sorted(set(range(steps)) - set(self.taken))


def narrow_model(leaf: str, switch: int | None = None) -> torch.nn.Module:
    """Return a seeded narrow model of a leaf; ``switch`` is where its phases change, if it has any."""
    config = LazyConfig.load(f"configs/{leaf}.py").model
    narrow_dense(config, STRIDES)
    narrow(config)
    if switch is not None:
        config.criterion.switch_iter = switch
    torch.manual_seed(0)
    return instantiate(config)


def train(model, batches, tmp_path, *, steps: int, dtype: str, rate: float, warmup_iters: int = 500) -> Seen:
    """Train as the training script does, on a CPU, and return what was seen."""
    precision = Precision(torch.device("cpu"), enabled=True, dtype=dtype)
    optimizer = torch.optim.SGD(parameter_groups(model), lr=rate, momentum=0.9, weight_decay=1e-4)
    trainer = Trainer(model, batches, optimizer, precision=precision, output_dir=str(tmp_path))
    seen = Seen(optimizer, precision, rate, warmup_iters)
    trainer.register_hooks([PhaseHook(model), seen])
    trainer.train(0, steps)
    return seen


def mean(values: list[float]) -> float:
    """Return the mean."""
    return sum(values) / len(values)
