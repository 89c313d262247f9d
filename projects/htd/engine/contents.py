"""What a file of weights has to hold before any of it reaches a model."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from htd.errors import UserError, reason


def checked_contents(contents: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Return the contents of a file with its weights under ``model``, after looking at them.

    Args:
        contents: what Detectron2's checkpointer has read: ``model`` and maybe more. Weights under
            ``model.state_dict``, where a file with ``state_dict`` at its top has them, are taken from there.
        origin: how the error calls the file.

    Raises:
        UserError: there are no weights, some of them are no tensors, or some are not finite.
    """
    weights = contents["model"]
    if isinstance(weights, Mapping) and isinstance(weights.get("state_dict"), Mapping):
        weights = weights["state_dict"]
    tensors = _tensors(weights) if isinstance(weights, Mapping) else {}
    if not tensors:
        raise UserError(
            f"{origin} holds no weights: give one that has tensors under model or state_dict, or at its top"
        )
    others = [f"{name} ({type(weights[name]).__name__})" for name in weights if name not in tensors]
    if others:
        raise UserError(
            f"{origin} has other values than tensors among its weights: {_some(others)}; save it again as "
            '{"model": state_dict}'
        )
    broken = [name for name, value in tensors.items() if not _finite(value)]
    if broken:
        raise UserError(
            f"{origin} has weights that are not finite: {_some(broken)}; take a checkpoint from before that"
        )
    return {**contents, "model": weights}


def unreadable(error: Exception, origin: str) -> UserError:
    """Return the error for a file that could not be read."""
    foreign = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
    if foreign:
        return UserError(
            f"checkpoint {origin} has other objects than tensors in it ({foreign[1]}): a published file goes "
            "through tools/convert_checkpoint.py; one that you trust you can read by "
            'torch.load(file, weights_only=False) and save again as {"model": state_dict} with tensors only'
        )
    return UserError(
        f"checkpoint {origin} cannot be read: {reason(error)}; it is cut short or no PyTorch checkpoint: "
        "copy or download it again"
    )


def _tensors(weights: Mapping[Any, Any]) -> dict[str, torch.Tensor | np.ndarray]:
    return {
        name: value
        for name, value in weights.items()
        if isinstance(name, str) and isinstance(value, (torch.Tensor, np.ndarray))
    }


def _finite(value: torch.Tensor | np.ndarray) -> bool:
    value = torch.as_tensor(value)
    # The sum of finite values may overflow, but is quick to take; what it leaves open is looked at.
    return not value.is_floating_point() or bool(value.sum().isfinite()) or bool(value.isfinite().all())


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
