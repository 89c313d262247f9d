"""The tiny detector with a criterion of two phases."""

from __future__ import annotations

from detectron2.config import LazyCall as L
from detectron2.utils.events import get_event_storage
from omegaconf import DictConfig
from torch import Tensor, nn

from htd.modeling.tood import TwoPhaseCriterion
from tests.engine.tiny import TinyModel

# (iteration, whether the aligned part was called) of each step in this process.
STEPS: list[tuple[int, bool]] = []


class Weighted(nn.Module):
    """Doubles the losses of aligned steps, so that the phase shows in the weights, and notes its steps."""

    def __init__(self, aligned: bool) -> None:
        super().__init__()
        self.aligned = aligned

    def forward(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        STEPS.append((get_event_storage().iter, self.aligned))
        return {name: value * (1 + self.aligned) for name, value in losses.items()}


class PhasedModel(TinyModel):
    """Supervises in two phases; an evaluation has no criterion."""

    def __init__(self, criterion: nn.Module) -> None:
        super().__init__()
        self.criterion = criterion

    def forward(self, images: list[dict]):
        outputs = super().forward(images)
        return self.criterion(outputs) if self.training else outputs


def phased(config: DictConfig, *, switch_iter: int | None = None, switch_epochs: float | None = None):
    """Give a config of the tiny leaf the model with two phases, in place, and return it."""
    config.model = L(PhasedModel)(
        criterion=L(TwoPhaseCriterion)(
            initial=L(Weighted)(aligned=False),
            aligned=L(Weighted)(aligned=True),
            switch_iter=switch_iter,
            switch_epochs=switch_epochs,
        )
    )
    return config
