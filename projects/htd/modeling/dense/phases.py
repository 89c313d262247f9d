"""Supervision that changes once in a training: another assigner and other losses from some iteration on."""

from __future__ import annotations

from torch import nn

from htd.errors import UserError
from htd.modeling.dense.checks import as_written, is_finite
from htd.modeling.metrics import open_storage


class TwoPhases(nn.Module):
    """Supervises by ``initial`` before the switch and by ``aligned`` from the switch on.

    As in the published code of TOOD, which supervises 4 of its 12 or 24 epochs without task alignment.

    The phase is a function of the iteration alone, so nothing of it is in the weights: a resumed training is
    at once in the right phase, and one that starts from finished weights is in the initial phase again unless
    the switch is 0. Where :meth:`set_iteration` has never been called, the iteration is that of Detectron2's
    event storage.

    Args:
        initial, aligned: the parts; called the same way.
        switch_iter: 0-based iteration of the first aligned step; 0 is aligned from the start.
        switch_epochs: the same in passes over the training data, which :meth:`resolve` turns into iterations.
            Exactly one of the two is given.

    Raises:
        UserError: both switches or none, or one that is no number from 0 on.
    """

    def __init__(
        self,
        *,
        initial: nn.Module,
        aligned: nn.Module,
        switch_iter: int | None = None,
        switch_epochs: float | None = None,
    ) -> None:
        super().__init__()
        _check(switch_iter, switch_epochs)
        self.initial = initial
        self.aligned = aligned
        self.switch_epochs = switch_epochs
        # No epoch needs no length of an epoch.
        self.switch_iter = 0 if switch_epochs == 0 else switch_iter
        self._iteration: int | None = None

    def resolve(self, iterations_an_epoch: int) -> None:
        """Turn ``switch_epochs`` into ``switch_iter``; nothing happens where the latter was given."""
        if self.switch_epochs is not None:
            self.switch_iter = round(self.switch_epochs * iterations_an_epoch)

    def set_iteration(self, iteration: int) -> None:
        """Say which step of the whole training, from 0, is about to run."""
        self._iteration = iteration

    @property
    def aligned_now(self) -> bool:
        """Whether the present step is one of the aligned phase.

        Raises:
            UserError: the iteration is not known, or the length of an epoch.
        """
        if self.switch_iter is None:
            raise UserError(
                f"model.supervision.switch_epochs is {self.switch_epochs}, but nobody has said how many "
                "iterations an epoch has: train by train_net.py, call resolve(iterations_an_epoch), or give "
                "model.supervision.switch_iter and set switch_epochs to null"
            )
        return self.switch_iter == 0 or self._present() >= self.switch_iter

    def forward(self, *args, **kwargs):
        """Return what the part of the present phase returns."""
        return (self.aligned if self.aligned_now else self.initial)(*args, **kwargs)

    def extra_repr(self) -> str:
        """Return the switch, for the model's text."""
        return f"switch_iter={self.switch_iter}, switch_epochs={self.switch_epochs}"

    def _present(self) -> int:
        if self._iteration is not None:
            return self._iteration
        storage = open_storage()
        if storage is None:
            raise UserError(
                "the iteration is not known, so neither is the phase of the training: call set_iteration(k) "
                "of the model's TwoPhases before each step, or train within an EventStorage of Detectron2"
            )
        return storage.iter


def _check(switch_iter: object, switch_epochs: object) -> None:
    if (switch_iter is None) == (switch_epochs is None):
        cure = "; set the other to null, as by model.supervision.switch_iter=null"
        raise UserError(
            f"model.supervision has switch_iter {as_written(switch_iter)} and switch_epochs "
            f"{as_written(switch_epochs)}: give one of them{'' if switch_iter is None else cure}"
        )
    key, value = ("switch_iter", switch_iter) if switch_epochs is None else ("switch_epochs", switch_epochs)
    kind = "whole number" if switch_epochs is None else "finite number"
    if not is_finite(value) or value < 0 or (switch_epochs is None and not isinstance(value, int)):
        raise UserError(
            f"model.supervision.{key} is {value}: give a {kind} from 0 on; with 0 the training is aligned "
            "from the start"
        )
