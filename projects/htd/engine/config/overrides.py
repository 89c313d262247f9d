"""Checks ``key=value`` overrides against the config before they are applied to it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf

from htd.engine.config.builder import locate_target, parameters_of
from htd.engine.config.hints import fits, hints_of, in_words
from htd.engine.config.renamed import renamed_key, walk
from htd.errors import UserError

# Keys that a config may lack, so that null changes nothing.
_OPTIONAL = ("test_time_augmentation",)


def override_keys(overrides: Sequence[str]) -> set[str]:
    """Return the keys that the overrides set."""
    return {override.key_or_group for override in map(_parse, overrides)}


def checked_overrides(config: DictConfig, overrides: Sequence[str]) -> list[str]:
    """Return the overrides if each of them fits the config.

    A key has to exist, or to be an argument of the callable that the config calls there, or to be written
    ``+key=value``. Its value has to be one that the argument's type hint allows or, without a hint, of the
    kind of the present value.

    Raises:
        UserError: naming the first override that does not fit, with the nearest keys.
    """
    known = dict(walk(OmegaConf.to_container(config)))
    for text in overrides:
        override = _parse(text)
        key = override.key_or_group
        if override.is_delete() or override.is_sweep_override():
            raise UserError(
                f"override {text!r}: write key=value, a list as key=[1,2]; ~key, key=1,2 do not exist"
            )
        value, argument = override.value(), _argument(config, key, known)
        if key not in known and key in _OPTIONAL and value is None:
            continue
        if not (key in known or argument or override.is_add() or override.is_force_add()):
            raise UserError(f"unknown key {key!r} in override {text!r}; {_advice(key, known)}")
        present = _select(config, key) if key in known else None
        hint = argument.annotation if argument else inspect.Parameter.empty
        if hint is inspect.Parameter.empty:
            hint = _kind_of(present, key)
        if not fits(value, hint) and not (value is None and argument and argument.default is None):
            now = "" if present is None or isinstance(present, DictConfig) else f"(now {present}) "
            raise UserError(f"{key}={value} does not fit: {key} {now}wants {in_words(hint)}")
    return list(overrides)


def _parse(text: str) -> Override:
    try:
        return OverridesParser.create().parse_overrides([text])[0]
    except OverrideParseException:
        raise UserError(
            f"cannot read override {text!r}: write key=value, with quotes around a text that has = or "
            "brackets in it, for example 'train.output_dir=\"runs/a=1\"'"
        ) from None


def _select(config: DictConfig, key: str) -> Any:
    try:
        return OmegaConf.select(config, key)
    except Exception:  # an interpolation of something that is not there yet
        return None


def _argument(config: DictConfig, key: str, known: Mapping[str, Any]) -> inspect.Parameter | None:
    """Return the parameter for which a key stands in the callable that the config calls there, if it does.

    Its annotation is the evaluated type hint.
    """
    parent, _, name = key.rpartition(".")
    if f"{parent}._target_" not in known:
        return None
    target = locate_target(known[f"{parent}._target_"], parent)
    parameter = (parameters_of(target) or {}).get(name)
    if parameter is None or parameter.kind is inspect.Parameter.VAR_KEYWORD:
        return None
    return parameter.replace(annotation=hints_of(target).get(name, inspect.Parameter.empty))


def _kind_of(present: Any, key: str) -> Any:
    """Return as a type hint what may replace a value whose argument has none.

    A number may become a list of numbers or the reverse, as sizes are often given in either way.
    """
    if isinstance(present, bool):
        return bool
    if isinstance(present, int):
        return int | None if key.startswith("train.") else float | list[float] | None
    kinds = {float: float, str: str | float, ListConfig: list | int, DictConfig: dict}
    kind = next((hint for kind, hint in kinds.items() if isinstance(present, kind)), None)
    return kind | None if kind else Any


def _advice(key: str, known: Mapping[str, Any]) -> str:
    """Return what to write in place of a key that is not known."""
    new, parts = renamed_key(key), key.split(".")
    names = [name for name in known if not name.endswith("_target_")]
    if new is None:
        return f"{key} is not needed any longer"
    if new != key:
        # Part of the old key may be a level further in, such as the losses of boxes in those of TSD.
        return f"{key} is now {new if new in known else (get_close_matches(new, names, n=1) or [new])[0]}"
    for end in range(1, len(parts)):
        members = known.get(".".join(parts[:end]))
        if isinstance(members, list) and parts[end].isdigit() and int(parts[end]) >= len(members):
            return f"{'.'.join(parts[:end])} has {len(members)}, counted from 0"
    near = get_close_matches(key, names, n=2, cutoff=0.8)
    near += [name for name in names if name.rpartition(".")[2] == parts[-1] and name not in near]
    question = f"did you mean {' or '.join(near[:2])}? " if near else ""
    return f"{question}+{key}=... adds a new key"
