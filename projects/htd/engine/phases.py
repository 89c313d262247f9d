"""Tells the parts of a model that change during a training which iteration it is."""

from __future__ import annotations

import logging

from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn

from htd.errors import UserError
from htd.modeling.tood import TwoPhaseCriterion

logger = logging.getLogger(__name__)


class PhaseHook(HookBase):
    """Hands the global iteration to all modules that have ``set_iteration``, before each step.

    The log says in which phase a training with :class:`htd.modeling.tood.TwoPhaseCriterion` starts, and when
    it changes.

    Args:
        model: the model, not wrapped for several processes.
    """

    def __init__(self, model: nn.Module) -> None:
        self._listeners = [module for module in model.modules() if hasattr(module, "set_iteration")]
        self._phases = [module for module in self._listeners if isinstance(module, TwoPhaseCriterion)]

    def before_train(self) -> None:
        """Turn epochs into iterations, and say what is to come.

        Raises:
            UserError: a switch is given in epochs, and the data loader does not say how long they are.
        """
        for phases in self._phases:
            if phases.switch_epochs:
                phases.resolve(iterations_an_epoch(self.trainer.data_loader))
        if comm.is_main_process():
            for phases in self._phases:
                self._announce(phases)

    def before_step(self) -> None:
        """Hand on the iteration; say so when the phase changes."""
        iteration = self.trainer.iter
        for module in self._listeners:
            module.set_iteration(iteration)
        begins = any(phases.switch_iter == iteration > self.trainer.start_iter for phases in self._phases)
        if begins and comm.is_main_process():
            logger.info("the aligned phase of the training begins at iteration %d", iteration)

    def _announce(self, phases: TwoPhaseCriterion) -> None:
        switch = phases.switch_iter
        if self.trainer.start_iter >= switch:
            logger.info("the training starts in the aligned phase, which is from iteration %d on", switch)
            return
        logger.info(
            "the training starts in the initial phase; the aligned phase is from iteration %d on", switch
        )
        if self.trainer.max_iter <= switch:
            key = "switch_iter" if phases.switch_epochs is None else "switch_epochs"
            logger.warning(
                "the training ends at iteration %d, before its aligned phase, which would begin at iteration "
                "%d: lower model.criterion.%s, or train longer",
                self.trainer.max_iter,
                switch,
                key,
            )


def iterations_an_epoch(loader: object) -> int:
    """Return how many steps of all ranks together a data loader takes for each image once.

    Raises:
        UserError: it does not say.
    """
    count = getattr(loader, "iterations_an_epoch", None)
    if count is None:
        raise UserError(
            f"the training's {type(loader).__name__} has no iterations_an_epoch, so the length of an epoch "
            "is not known: give model.criterion.switch_iter and set switch_epochs to null"
        )
    return count
