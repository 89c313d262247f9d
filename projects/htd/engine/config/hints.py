"""Compares a value of a config with the type hint of the argument that it is for."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, ListConfig

_WORDS = {
    type(None): "null",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "one of its keys set, as in key.name=value",
}
# What a config file can hold; everything else is an object that a call has made.
_PLAIN = (str, bool, int, float, list, dict, ListConfig, DictConfig)


def hints_of(target: Callable[..., Any]) -> dict[str, Any]:
    """Return the type hints of a function's or constructor's arguments; none if they cannot be evaluated."""
    try:
        return get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except Exception:  # names that exist for type checkers alone, or no hints at all
        return {}


def fits(value: object, hint: Any) -> bool:
    """Tell whether a value may stand where a hint is; objects are only compared with hints of plain kinds."""
    origin, arguments = get_origin(hint), get_args(hint)
    is_call = isinstance(value, Mapping) and "_target_" in value
    if is_call or hint is Any or hint is object or isinstance(hint, TypeVar):
        return True
    if origin in (Union, types.UnionType):
        return any(fits(value, one) for one in arguments)
    if origin is Literal:
        return value in arguments
    if hint is None or value is None:
        return value is None and hint in (None, type(None))
    if hint is bool:
        return isinstance(value, bool)
    if hint in (int, float):
        return isinstance(value, Integral if hint is int else Real) and not isinstance(value, bool)
    kind = origin or hint
    if not isinstance(kind, type):
        return True
    if issubclass(kind, Mapping):
        return isinstance(value, Mapping)
    if kind is not str and issubclass(kind, Iterable):
        is_list = isinstance(value, (list, tuple, ListConfig))
        return _members_fit(value, kind, arguments) if is_list else not isinstance(value, _PLAIN)
    return isinstance(value, kind) if kind is str or isinstance(value, _PLAIN) else True


def _members_fit(values: list | tuple | ListConfig, kind: type, hints: tuple) -> bool:
    if kind is tuple and hints and hints[-1] is not Ellipsis:
        return len(values) == len(hints) and all(map(fits, values, hints))
    return not hints or all(fits(value, hints[0]) for value in values)


def in_words(hint: Any) -> str:
    """Return what a hint allows, in plain words where it has them."""
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(map(in_words, get_args(hint)))
    if hint in _WORDS:
        return _WORDS[hint]
    if get_args(hint) and isinstance(get_origin(hint), type) and not issubclass(get_origin(hint), Mapping):
        member = in_words(get_args(hint)[0])
        return f"a list of {member[2:]}s" if member.startswith("a ") else f"a list of {member}"
    return getattr(hint, "__name__", str(hint))


def in_short(value: object) -> str:
    """Return a value as it is written in a config, long ones cut."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
