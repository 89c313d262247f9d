"""What a drawer is: it names parts of a model, and makes a picture of what went through them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from detectron2.structures import Instances
from torch import nn

Part = TypeVar("Part", bound=nn.Module)


class Call(NamedTuple):
    """One call of a part: its positional arguments and what it returned."""

    inputs: tuple
    output: Any


@dataclass(frozen=True)
class Scene:
    """An image and what a model has found on it.

    Attributes:
        image_rgb: (H, W, 3) uint8, the image as it is in its file.
        network_size: (height, width) of the network's input, to which parts of the model refer.
        detections: on the CPU, in the frame of ``image_rgb``, best first: those that are to be drawn.
        class_names: names by class; maybe fewer than there are classes.
        score_threshold: the detections have at least this score.
        max_regions: drawers that look at single regions show at most so many.
    """

    image_rgb: np.ndarray
    network_size: tuple[int, int]
    detections: Instances
    class_names: tuple[str, ...]
    score_threshold: float
    max_regions: int


class Drawer:
    """Draws one side of what a model does.

    Args:
        parts: modules of the model by name, whose calls the drawer wants to see.

    Attributes:
        name: of the pictures, a single word.
    """

    name: str

    def __init__(self, parts: Mapping[str, nn.Module] | None = None):
        self.parts = dict(parts or {})

    @classmethod
    def of(cls, model: nn.Module) -> Drawer | None:
        """Return a drawer for a model, None if the model has not the parts that are drawn."""
        raise NotImplementedError

    def draw(self, scene: Scene, calls: Mapping[str, list[Call]]) -> np.ndarray | None:
        """Return a picture (H', W', 3) uint8, RGB; None if there is nothing to show.

        Args:
            scene: the image and its detections.
            calls: of each part, in their order, those of the inference that made the detections.
        """
        raise NotImplementedError


def find(module: nn.Module, kind: type[Part]) -> Part | None:
    """Return the first part of a kind in a module, None if there is none."""
    return next((part for part in module.modules() if isinstance(part, kind)), None)


@contextmanager
def recorded(parts: Mapping[str, nn.Module]) -> Iterator[dict[str, list[Call]]]:
    """Record the calls of modules by name as long as the context lasts."""
    calls: dict[str, list[Call]] = {name: [] for name in parts}

    def hook_for(name: str):
        def hook(module: nn.Module, inputs: tuple, output: Any) -> None:
            calls[name].append(Call(inputs, output))

        return hook

    handles = [module.register_forward_hook(hook_for(name)) for name, module in parts.items()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
