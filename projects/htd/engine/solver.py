"""What a config states of the solver: parameter groups of the optimizer and learning-rate schedules."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.solver.build import get_default_optimizer_params
from fvcore.common.param_scheduler import CosineParamScheduler, ParamScheduler
from torch import nn

from htd.errors import UserError


def parameter_groups(
    model: nn.Module,
    *,
    base_lr: float | None = None,
    weight_decay_norm: float | None = None,
    weight_decay_bias: float | None = None,
    bias_lr_factor: float = 1.0,
    overrides: Mapping[str, Mapping[str, float]] | None = None,
) -> list[dict[str, Any]]:
    """Return the trainable parameters of a model, one group for each distinct set of options.

    Detectron2 0.5 makes one group a parameter and later versions merge equal ones, so a saved optimizer
    state would fit only the version that wrote it; merged here, it fits both.

    Args:
        model: the model.
        base_lr: the optimizer's learning rate; needed if ``bias_lr_factor`` is not 1.
        weight_decay_norm: decay of the parameters of normalization layers; None: the optimizer's.
        weight_decay_bias: decay of all parameters called ``bias``; None: the optimizer's.
        bias_lr_factor: what the rate of all parameters called ``bias`` is multiplied by.
        overrides: name of a parameter within its module, such as ``weight`` -> options of its group.

    Returns:
        Groups with ``params`` and the options that differ from the optimizer's own.
    """
    groups = get_default_optimizer_params(
        model,
        base_lr=None if bias_lr_factor == 1 else base_lr,
        weight_decay_norm=weight_decay_norm,
        weight_decay_bias=weight_decay_bias,
        bias_lr_factor=bias_lr_factor,
        # Copies: Detectron2 adds the biases' options to what it is given, here a part of the config.
        overrides={name: dict(options) for name, options in (overrides or {}).items()},
    )
    merged: dict[tuple, list[nn.Parameter]] = {}
    for group in groups:
        key = tuple(sorted((name, value) for name, value in group.items() if name != "params"))
        merged.setdefault(key, []).extend(group["params"])
    return [{"params": parameters, **dict(key)} for key, parameters in merged.items()]


class StepDecay(ParamScheduler):
    """Multiply the rate by ``gamma`` at each milestone; milestones are fractions of the whole training.

    fvcore's schedule of this kind does not take a trial run of a few iterations, where milestones coincide.
    """

    def __init__(self, milestones: Sequence[float], gamma: float) -> None:
        self._milestones = list(milestones)
        self._gamma = gamma

    def __call__(self, where: float) -> float:
        """Return the multiplier at ``where``, the fraction in [0, 1] of the training that is done."""
        return self._gamma ** bisect_right(self._milestones, where + self.WHERE_EPSILON)


class LinearWarmup(ParamScheduler):
    """Multiply another schedule by a ramp from ``factor`` to 1 over the first iterations.

    The published implementation scales the regular rate in this way; it stays defined for a training that is
    shorter than its own warm-up, as a trial run of a few iterations is. Detectron2's warm-up interpolates to
    the rate at its end, which rounds in another way.
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
    decay = CosineParamScheduler(1.0, end_value)
    return LinearWarmup(decay, max_iter=max_iter, warmup_iters=warmup_iters, factor=warmup_factor)
