"""Checks that what a config calls is there and takes the arguments that it is given."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig
from torch import nn

from htd.engine.config.annotations import members_take_null, takes_null
from htd.errors import UserError, reason

# Arguments that are put into the config only when the call is made.
_LATER = {"optimizer.params": ("model",), "test_time_augmentation": ("model",)}
# Arguments that are null in the config of a run without test data, which the data replace when they come.
_AWAITED = {f"dataloader.test.dataset.{name}" for name in ("json_file", "image_root")}


def check_calls(config: DictConfig) -> None:
    """Refuse a config with a call that cannot be made, before anything is built.

    Raises:
        UserError: naming the first node whose ``_target_`` is not there, or whose arguments do not fit it,
            or an argument that is null where this package needs a value.
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
        if getattr(target, "__module__", "").split(".")[0] == "htd":
            _check_nulls(key, node, target, signature)


def _check_nulls(
    key: str, node: DictConfig, target: Callable[..., Any], signature: inspect.Signature
) -> None:
    """Refuse null for arguments, and in lists, where neither annotation nor default has it."""
    for name, parameter in signature.parameters.items():
        value = node._get_node(name)
        if value is None or f"{key}.{name}" in _AWAITED:  # the former: not given
            continue
        nulls = [f"{key}.{name}"] if value._is_none() and not takes_null(parameter) else []
        if _has_members(value, ListConfig) and not members_take_null(parameter):
            empty = (index for index in range(len(value)) if value._get_node(index)._is_none())
            nulls += [f"{key}.{name}.{index}" for index in empty]
        if nulls:
            raise UserError(
                f"{nulls[0]} is null, but {target.__name__} needs a value there ({parameter.annotation}); a "
                "part is left out by one that stands for none, such as NoSibling or NoShift, a list by []"
            )


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
    if _has_members(node, DictConfig):
        if "_target_" in node:
            yield key, node
        for name in node:
            yield from _calls(node._get_node(name), f"{key}.{name}" if key else str(name))
    elif _has_members(node, ListConfig):
        for index in range(len(node)):
            yield from _calls(node._get_node(index), f"{key}.{index}")


def _has_members(node: object, kind: type[DictConfig] | type[ListConfig]) -> bool:
    return isinstance(node, kind) and not node._is_none() and not node._is_interpolation()
