"""Checks that what a config calls is there and takes the arguments that it is given."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig
from torch import nn

from htd.errors import UserError, reason

# Arguments that are put into the config only when the call is made.
_LATER = {"optimizer.params": ("model",), "test_time_augmentation": ("model",)}


def check_calls(config: DictConfig) -> None:
    """Refuse a config with a call that cannot be made, before anything is built.

    Raises:
        UserError: naming the first node whose ``_target_`` is not there, or whose arguments do not fit it.
    """
    for key, node in _calls(config, ""):
        target = located(node, key)
        arguments = dict.fromkeys([*(name for name in node if name != "_target_"), *_LATER.get(key, ())])
        try:
            # A module without a constructor of its own shows *args and **kwargs, and takes none.
            plain = getattr(target, "__init__", None) is nn.Module.__init__
            signature = inspect.Signature() if plain else inspect.signature(target)
        except (TypeError, ValueError):  # compiled functions do not tell
            continue
        try:
            signature.bind(**arguments)
        except TypeError as error:
            raise UserError(
                f"config node {key} cannot call {getattr(target, '__name__', target)}: {error}; "
                f"its arguments are {', '.join(signature.parameters) or 'none'}"
            ) from None


def located(node: DictConfig, key: str) -> Callable[..., Any]:
    """Return what a node's ``_target_`` names.

    Raises:
        UserError: it cannot be imported or is nothing to call.
    """
    target = node._get_node("_target_")._value()
    if isinstance(target, str):
        try:
            found = locate(target)
        except Exception as error:  # importing may fail in any way
            raise UserError(
                f"config node {key}: its _target_ {target} cannot be imported: {reason(error)}"
            ) from error
    else:
        found = target
    if not callable(found):
        raise UserError(f"config node {key}: its _target_ {target} is neither a class nor a function")
    return found


def _calls(node: object, key: str) -> Iterator[tuple[str, DictConfig]]:
    """Yield the nodes with a ``_target_``, outer ones first; interpolations are not followed."""
    if isinstance(node, DictConfig) and not node._is_none() and not node._is_interpolation():
        if "_target_" in node:
            yield key, node
        for name in node:
            yield from _calls(node._get_node(name), f"{key}.{name}" if key else str(name))
    elif isinstance(node, ListConfig) and not node._is_none() and not node._is_interpolation():
        for index in range(len(node)):
            yield from _calls(node._get_node(index), f"{key}.{index}")
