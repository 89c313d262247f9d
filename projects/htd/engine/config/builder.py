"""Builds the parts of a config as Detectron2's ``instantiate`` does, and says which key failed."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from detectron2.config import instantiate
from detectron2.utils.registry import locate
from omegaconf import ListConfig
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from htd.engine.config.hints import fits, hints_of, in_short, in_words
from htd.engine.config.renamed import NAMES
from htd.errors import UserError, reason


def build(node: Any, key: str) -> Any:
    """Instantiate what a config has at a dotted key, with the results of Detectron2's ``instantiate``.

    Raises:
        UserError: a part cannot be built, as ``<key> (<class>): <reason>``.
    """
    if isinstance(node, ListConfig):
        members = [build(member, f"{key}.{index}") for index, member in enumerate(node)]
        return ListConfig(members, flags={"allow_objects": True})
    if isinstance(node, list):
        return [build(member, f"{key}.{index}") for index, member in enumerate(node)]
    if not (isinstance(node, Mapping) and "_target_" in node):
        return instantiate(node)
    try:
        members = dict(node.items())
    except OmegaConfBaseException as error:  # such as an interpolation that leads nowhere
        raise UserError(f"{key}: {reason(error)}") from error
    target = locate_target(build(members.pop("_target_"), key), key)
    arguments = {name: build(member, f"{key}.{name}") for name, member in members.items()}
    _check_arguments(target, arguments, key)
    try:
        return target(**arguments)
    except UserError:
        raise
    except Exception as error:  # a constructor may fail in any way
        raise UserError(f"{key} ({_name(target)}): {_why(error)}") from error


def locate_target(target: object, key: str) -> Callable[..., Any]:
    """Return what a ``_target_`` names.

    Raises:
        UserError: it cannot be imported or is nothing to call.
    """
    if isinstance(target, str):
        try:
            target = locate(target)
        except Exception as error:  # importing may fail in any way
            new = NAMES.get(target)
            why = f"it is now {new}" if new else reason(error)
            raise UserError(f"{key}._target_: {target} cannot be imported: {why}") from error
    if not callable(target):
        raise UserError(f"{key}._target_: {target} is neither a class nor a function")
    return target


def parameters_of(target: Callable[..., Any]) -> Mapping[str, inspect.Parameter] | None:
    """Return the parameters of a class or function; None if it does not tell, as some compiled ones."""
    # A module without a constructor of its own shows *args and **kwargs, and takes none.
    if getattr(target, "__init__", None) is nn.Module.__init__:
        return {}
    try:
        return inspect.signature(target).parameters
    except (TypeError, ValueError):
        return None


def _check_arguments(target: Callable[..., Any], arguments: Mapping[str, Any], key: str) -> None:
    """Refuse arguments that do not exist or are missing, and values that a part of ours does not take."""
    parameters = parameters_of(target)
    if parameters is None:
        return
    try:
        inspect.Signature(list(parameters.values())).bind(**arguments)
    except TypeError as error:
        names = ", ".join(parameters) or "none"
        raise UserError(f"{key} ({_name(target)}): {error}; its arguments are {names}") from None
    # Annotations of other packages are not always true.
    if (target.__module__ or "").split(".")[0] != "htd":
        return
    hints = hints_of(target)
    for name, value in arguments.items():
        given_default = name in parameters and value is parameters[name].default
        if name in hints and not given_default and not fits(value, hints[name]):
            raise UserError(
                f"{key}.{name} is {in_short(value)}; {_name(target)} takes {in_words(hints[name])} there"
            )


def _name(target: Callable[..., Any]) -> str:
    return getattr(target, "__name__", str(target))


def _why(error: Exception) -> str:
    """Return an error's text in one line; what is no statement about a value comes with its place."""
    text = " ".join(str(error).split())
    if isinstance(error, ValueError):
        return text
    frame = traceback.extract_tb(error.__traceback__)[-1]
    if isinstance(error, AssertionError):
        text = text or frame.line or ""
    return f"{type(error).__name__}: {text} ({Path(frame.filename).name}, line {frame.lineno})"
