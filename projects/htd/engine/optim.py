"""Parameter groups for an optimizer."""

from __future__ import annotations

from typing import Any

from detectron2.solver.build import get_default_optimizer_params
from torch import nn


def parameter_groups(model: nn.Module, **options: Any) -> list[dict[str, Any]]:
    """Return the trainable parameters of a model, one group for each distinct set of options.

    Detectron2 0.5 makes one group a parameter and later versions merge equal ones, so a saved optimizer
    state would fit only the version that wrote it; merged here, it fits both.

    Args:
        model: the model.
        options: those of :func:`detectron2.solver.build.get_default_optimizer_params`, for example
            ``weight_decay_norm`` and ``weight_decay_bias``; what is not given comes from the optimizer.

    Returns:
        Groups with ``params`` and the options that differ from the optimizer's own.
    """
    merged: dict[tuple, list[nn.Parameter]] = {}
    for group in get_default_optimizer_params(model, **options):
        key = tuple(sorted((name, value) for name, value in group.items() if name != "params"))
        merged.setdefault(key, []).extend(group["params"])
    return [{"params": parameters, **dict(key)} for key, parameters in merged.items()]
