"""Parameter groups for an optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detectron2.solver.build import get_default_optimizer_params
from torch import nn


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
