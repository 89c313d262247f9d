"""Checks ``key=value`` overrides against the config before they are applied to it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from numbers import Number

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, ListConfig
from omegaconf.errors import OmegaConfBaseException

from htd.engine.config.builder import locate_target, parameters_of
from htd.engine.config.hints import fits, hints_of, in_words
from htd.errors import UserError

# Keys that a config may lack, so that null changes nothing.
_OPTIONAL = ("test_time_augmentation",)


def override_keys(overrides: Sequence[str]) -> set[str]:
    """Return the keys that the overrides set."""
    return {override.key_or_group for override in map(_parse, overrides)}


def checked_overrides(config: DictConfig, overrides: Sequence[str]) -> list[str]:
    """Return the overrides if each of them fits the config.

    A key has to exist, or to be an argument of the callable that the config calls there, or to be written
    ``+key=value``; and its value has to be one that the argument's type hint allows, or, without a hint, of
    the kind of the present value.

    Raises:
        UserError: naming the first override that does not fit, with the nearest keys.
    """
    for text in overrides:
        override = _parse(text)
        key = override.key_or_group
        if override.is_delete() or override.is_sweep_override():
            raise UserError(
                f"override {text!r}: write key=value, a list as key=[1,2]; ~key, key=1,2 do not exist"
            )
        value = override.value()
        exists, present = _look_up(config, key)
        argument = _argument(config, key)
        if not exists and key in _OPTIONAL and value is None:
            continue
        if not (exists or argument or override.is_add() or override.is_force_add()):
            hint = _beyond(config, key) or f"{_near(config, key)}; +{key}=... adds a new key"
            raise UserError(f"unknown key {key!r} in override {text!r}{hint}")
        if argument and argument.annotation is not inspect.Parameter.empty:
            wanted = None if _fits_argument(value, argument) else in_words(argument.annotation)
        else:
            wanted = _other_kind(key, present, value) if exists else None
        if wanted:
            raise UserError(f"{key}={value} does not fit: {key} {_now(present)}wants {wanted}")
    return list(overrides)


def _now(present: object) -> str:
    return "" if present is None or isinstance(present, DictConfig) else f"(now {present}) "


def _parse(text: str) -> Override:
    try:
        return OverridesParser.create().parse_overrides([text])[0]
    except OverrideParseException:
        raise UserError(
            f"cannot read override {text!r}: write key=value, with quotes around a text that has = or "
            "brackets in it, for example 'train.output_dir=\"runs/a=1\"'"
        ) from None


def _look_up(config: DictConfig, key: str) -> tuple[bool, object]:
    node: object = config
    for part in key.split("."):
        if isinstance(node, DictConfig) and part in list(node.keys()):
            holder, index = node, part
        elif isinstance(node, ListConfig) and part.isdigit() and int(part) < len(node):
            holder, index = node, int(part)
        else:
            return False, None
        try:
            node = holder[index]
        except OmegaConfBaseException:  # an interpolation of something that is not there yet
            node = None
    return True, node


def _argument(config: DictConfig, key: str) -> inspect.Parameter | None:
    """Return the parameter for which a key stands in the callable that the config calls there, if it does.

    Its annotation is the evaluated type hint.
    """
    parent, _, name = key.rpartition(".")
    node = _look_up(config, parent)[1] if parent else None
    if not isinstance(node, DictConfig) or "_target_" not in node:
        return None
    target = locate_target(node._get_node("_target_")._value(), parent)
    parameter = (parameters_of(target) or {}).get(name)
    if parameter is None or parameter.kind is inspect.Parameter.VAR_KEYWORD:
        return None
    return parameter.replace(annotation=hints_of(target).get(name, inspect.Parameter.empty))


def _fits_argument(value: object, argument: inspect.Parameter) -> bool:
    return fits(value, argument.annotation) or (value is None and argument.default is None)


def _is_number(value: object) -> bool:
    return isinstance(value, Number) and not isinstance(value, bool)


def _beyond(config: DictConfig, key: str) -> str:
    """Return how many members the list has beyond whose end a key points, "" if it does not."""
    parts = key.split(".")
    for end in range(1, len(parts)):
        found, node = _look_up(config, ".".join(parts[:end]))
        if found and isinstance(node, ListConfig) and parts[end].isdigit() and int(parts[end]) >= len(node):
            return f"; {'.'.join(parts[:end])} has {len(node)}, counted from 0"
    return ""


def _near(config: DictConfig, key: str) -> str:
    known = list(_all_keys(config, ""))
    last = key.rpartition(".")[2]
    near = get_close_matches(key, known, n=2, cutoff=0.8)
    near += [other for other in known if other.rpartition(".")[2] == last and other not in near]
    return f"; did you mean {' or '.join(near[:2])}?" if near else ""


def _all_keys(node: object, prefix: str) -> Iterator[str]:
    if isinstance(node, DictConfig):
        for name in node:
            if name != "_target_":
                yield f"{prefix}{name}"
                yield from _all_keys(node._get_node(name), f"{prefix}{name}.")
    elif isinstance(node, ListConfig) and not node._is_none() and not node._is_interpolation():
        for index in range(len(node)):
            yield from _all_keys(node._get_node(index), f"{prefix}{index}.")


def _other_kind(key: str, present: object, value: object) -> str | None:
    """Return what a value should have been if it is of another kind than the present one; null mostly is not.

    A number may become a list of numbers where a callable has no type hint for it, or the reverse: sizes are
    often given in either way.
    """
    number = _is_number(value)
    numbers = isinstance(value, list) and all(map(_is_number, value))
    counts = key.split(".")[0] == "train"
    if isinstance(present, bool):
        return None if isinstance(value, bool) else "true or false"
    if value is None:
        return None
    if isinstance(present, int) and not (isinstance(value, int) and number if counts else number or numbers):
        return "a whole number"
    if isinstance(present, float) and not number:
        return "a number"
    if isinstance(present, str) and isinstance(value, (bool, list, dict)):
        return "a text"
    if isinstance(present, ListConfig) and not isinstance(value, (list, int)):
        return "a list such as [1,2]"
    if isinstance(present, DictConfig) and not isinstance(value, dict):
        return "one of its keys set, as in key.name=value"
    return None
