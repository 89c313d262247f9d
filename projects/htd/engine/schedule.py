"""Learning-rate multipliers, as functions of training progress, that a config names by import."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

from fvcore.common.param_scheduler import ParamScheduler

from htd.errors import UserError


class StepDecay(ParamScheduler):
    """Multiply the rate by ``gamma`` at each milestone; milestones are fractions of the whole training."""

    def __init__(self, milestones: Sequence[float], gamma: float) -> None:
        self._milestones = list(milestones)
        self._gamma = gamma

    def __call__(self, where: float) -> float:
        """Return the multiplier at ``where``, the fraction in [0, 1] of the training that is done."""
        return self._gamma ** bisect_right(self._milestones, where + self.WHERE_EPSILON)


class CosineDecay(ParamScheduler):
    """Let the rate fall along half a cosine from 1 to ``end_value``."""

    def __init__(self, end_value: float) -> None:
        self._end_value = end_value

    def __call__(self, where: float) -> float:
        """Return the multiplier at ``where``, the fraction in [0, 1] of the training that is done."""
        return self._end_value + (1 - self._end_value) * 0.5 * (1 + math.cos(math.pi * where))


class LinearWarmup(ParamScheduler):
    """Multiply another schedule by a ramp from ``factor`` to 1 over the first iterations.

    The published implementation scales the regular rate in this way; it stays defined for a training that is
    shorter than its own warm-up, as a trial run of a few iterations is.
    """

    def __init__(self, schedule: ParamScheduler, *, max_iter: int, warmup_iters: int, factor: float) -> None:
        self._schedule = schedule
        self._max_iter = max_iter
        self._warmup_iters = warmup_iters
        self._factor = factor

    def __call__(self, where: float) -> float:
        """Return the multiplier at ``where``, the fraction in [0, 1] of the training that is done."""
        done = where * self._max_iter
        if done >= self._warmup_iters:
            return self._schedule(where)
        return self._schedule(where) * (self._factor + (1 - self._factor) * done / self._warmup_iters)


def warmup_multistep(
    *,
    max_iter: int,
    milestones: Sequence[float],
    gamma: float = 0.1,
    warmup_iters: int = 500,
    warmup_factor: float = 0.001,
) -> ParamScheduler:
    """Build the step schedule with linear warm-up.

    Args:
        max_iter: length of the training in iterations.
        milestones: rising fractions of the training, each in (0, 1), after which the rate is multiplied by
            ``gamma``.
        gamma: factor of each step.
        warmup_iters: iterations of the warm-up; 0 for none.
        warmup_factor: multiplier at the first iteration.

    Returns:
        The multiplier of the base rate as a function of the fraction of the training that is done.

    Raises:
        UserError: the milestones do not rise or are not fractions.
    """
    points = [0.0, *milestones, 1.0]
    if any(left >= right for left, right in zip(points, points[1:], strict=False)):
        raise UserError(
            f"lr_multiplier.milestones are {list(milestones)}: write rising fractions of train.max_iter, "
            "each between 0 and 1, for example [0.667, 0.917]"
        )
    steps = StepDecay(milestones, gamma)
    return LinearWarmup(steps, max_iter=max_iter, warmup_iters=warmup_iters, factor=warmup_factor)


def warmup_cosine(
    *, max_iter: int, end_value: float = 0.01, warmup_iters: int = 50, warmup_factor: float = 0.001
) -> ParamScheduler:
    """Build the cosine schedule with linear warm-up.

    Args:
        max_iter: length of the training in iterations.
        end_value: multiplier at the end.
        warmup_iters: iterations of the warm-up; 0 for none.
        warmup_factor: multiplier at the first iteration.

    Returns:
        The multiplier of the base rate as a function of the fraction of the training that is done.
    """
    decay = CosineDecay(end_value)
    return LinearWarmup(decay, max_iter=max_iter, warmup_iters=warmup_iters, factor=warmup_factor)
