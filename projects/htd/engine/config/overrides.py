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

from htd.engine.config.annotations import outer_words
from htd.engine.config.build import located
from htd.errors import UserError

_COUNTED = ("train", "dataloader")
# Numbers for which null is a value: no pictures, and every checkpoint is kept.
_MAY_BE_NULL = ("train.vis_period", "train.checkpointer.max_to_keep")
# Keys that a config may lack, so that null changes nothing.
_OPTIONAL = ("test_time_augmentation",)
_SCALARS = {"int", "float"}
_LISTS = {"Sequence", "Iterable", "Collection", "list", "tuple"}


def override_keys(overrides: Sequence[str]) -> set[str]:
    """Return the keys that the overrides set."""
    return {override.key_or_group for override in map(_parse, overrides)}


def checked_overrides(config: DictConfig, overrides: Sequence[str]) -> list[str]:
    """Return the overrides if each of them fits the config.

    A key has to exist, or to be an argument of the callable that the config calls there, or to be written
    ``+key=value``; and a value has to be of the kind of the present one.

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
        found, present = _look_up(config, key)
        if found:
            if not _is_alternative(config, key, present, override.value()):
                _check_kind(key, present, override.value())
        elif key in _OPTIONAL and override.value() is None:
            continue
        elif not (override.is_add() or override.is_force_add() or _is_argument(config, key)):
            hint = _beyond(config, key) or f"{_near(config, key)}; +{key}=... adds a new key"
            raise UserError(f"unknown key {key!r} in override {text!r}{hint}")
    return list(overrides)


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


def _parameter(config: DictConfig, key: str) -> inspect.Parameter | None:
    """Return the parameter for which a key stands in the callable that the config calls there."""
    parent, _, name = key.rpartition(".")
    found, node = _look_up(config, parent) if parent else (False, None)
    if not found or not isinstance(node, DictConfig) or "_target_" not in node:
        return None
    return inspect.signature(located(node, parent)).parameters.get(name)


def _is_argument(config: DictConfig, key: str) -> bool:
    parameter = _parameter(config, key)
    return parameter is not None and parameter.kind is not inspect.Parameter.VAR_KEYWORD


def _is_alternative(config: DictConfig, key: str, present: object, value: object) -> bool:
    """Tell whether a value of another kind is one that the callable takes there, too.

    That is a list of numbers for a whole number, such as a size, or the reverse, if the parameter's
    annotation names both or there is none, and null for a whole number, if it names None.
    """
    if value is None and key in _MAY_BE_NULL:
        return True
    parameter = _parameter(config, key)
    if parameter is None:
        return False
    words = outer_words(parameter)
    if value is None:
        return "None" in words
    numbers = isinstance(value, list) and all(map(_is_number, value))
    whole = isinstance(present, int) and not isinstance(present, bool)
    other = (whole and numbers) or (isinstance(present, ListConfig) and isinstance(value, int))
    return other and (not words or bool(words & _SCALARS and words & _LISTS))


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


def _check_kind(key: str, present: object, value: object) -> None:
    """Refuse a value of another kind; the present value tells the kind, and null may replace most of them."""
    number = _is_number(value)
    if isinstance(present, bool):
        fits, wanted = isinstance(value, bool), "true or false"
    elif isinstance(present, int) and key.split(".")[0] in _COUNTED:
        fits, wanted = number and isinstance(value, int), "a whole number"
    elif isinstance(present, Number):
        fits, wanted = number or value is None, "a number"
    elif isinstance(present, str):
        fits, wanted = not isinstance(value, (bool, list, dict)), "a text"
    elif isinstance(present, ListConfig):
        fits, wanted = isinstance(value, list) or value is None, "a list such as [1,2]"
    elif isinstance(present, DictConfig):
        fits, wanted = isinstance(value, dict) or value is None, "one of its keys set, as in key.name=value"
    else:
        return
    if not fits:
        now = "a group of keys" if isinstance(present, DictConfig) else f"now {present}"
        raise UserError(f"{key}={value} does not fit: {key} ({now}) wants {wanted}")
