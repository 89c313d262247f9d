"""Reads from the annotation of a parameter which kinds of values it takes."""

from __future__ import annotations

import inspect
import re

# Names in an annotation that take null.
_NULLABLE = {"None", "Optional", "Any", "object"}


def outer_words(parameter: inspect.Parameter) -> set[str]:
    """Return the names in an annotation but for the kinds of a list's members; none if there is none."""
    text = _text(parameter)
    while (shorter := re.sub(r"\[[^\[\]]*\]", "", text)) != text:
        text = shorter
    return set(re.findall(r"\w+", text))


def takes_null(parameter: inspect.Parameter) -> bool:
    """Tell whether null may be given, as far as the annotation and the default tell."""
    words = outer_words(parameter)
    return not words or bool(words & _NULLABLE) or parameter.default is None


def members_take_null(parameter: inspect.Parameter) -> bool:
    """Tell whether a list that is given may have null in it, as far as the annotation tells."""
    members = re.search(r"\[.*\]", _text(parameter))
    return members is None or bool(set(re.findall(r"\w+", members[0])) & _NULLABLE)


def _text(parameter: inspect.Parameter) -> str:
    annotation = parameter.annotation
    if annotation is inspect.Parameter.empty:
        return ""
    return annotation if isinstance(annotation, str) else str(annotation)
