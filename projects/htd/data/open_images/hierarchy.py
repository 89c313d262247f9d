"""OpenImages' hierarchy: which classes stand above each class."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import numpy as np

from htd.data.open_images.files import ClassList, existing, opened
from htd.errors import UserError


def read_ancestors(path: str | Path, classes: ClassList, relations: Sequence[str]) -> np.ndarray:
    """Read the hierarchy.

    Args:
        path: the official JSON: nested objects with ``LabelName`` and lists of such objects under
            ``Subcategory`` (is a) and ``Part`` (is a part of). A label may stand at several places.
        classes: labels that are no class (as the root, Entity) stand only between others.
        relations: lists to follow.

    Returns:
        (K, K) bool: row = class, columns = the class itself and all its ancestors.

    Raises:
        UserError: the file is missing, is no such JSON, has none of the classes, or a label, be it a class
            or not, stands below itself.
    """
    path = existing(path)
    try:
        with opened(path) as file:
            root = json.load(file)
    except ValueError as error:
        raise UserError(f"hierarchy {path} is not JSON ({error}); was the download cut short?") from error
    except RecursionError as error:
        raise UserError(
            f"hierarchy {path} is nested too deeply to be read; name the official JSON of the hierarchy"
        ) from error
    parents: dict[str, set[str]] = {}
    for label, parent in _entries(path, root, relations):
        parents.setdefault(label, set()).update([parent] if parent else [])
    numbers = classes.numbers()
    if not any(label in numbers for label in parents):
        raise UserError(f"hierarchy {path} has none of the {len(numbers)} classes of {classes.path}")
    above = _all_above(path, parents)
    matrix = np.eye(len(numbers), dtype=bool)
    for label in above.keys() & numbers.keys():
        matrix[numbers[label], [numbers[other] for other in above[label] if other in numbers]] = True
    return matrix


def _entries(path: Path, root: object, relations: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Yield each label of the hierarchy's objects with the label that it stands below."""
    waiting: list[tuple[object, str | None]] = [(root, None)]
    while waiting:
        node, parent = waiting.pop()
        if not isinstance(node, dict) or not isinstance(node.get("LabelName"), str):
            raise UserError(
                f"hierarchy {path}: an entry below {parent or 'the top'} has no LabelName; "
                "name the official JSON of the hierarchy"
            )
        label = node["LabelName"]
        yield label, parent
        for relation in relations:
            children = node.get(relation, [])
            if not isinstance(children, list):
                raise UserError(
                    f"hierarchy {path}: {relation} of {label} is not a list; name the official JSON of the "
                    "hierarchy"
                )
            waiting += [(child, label) for child in children]


def _all_above(path: Path, parents: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return all labels above each label."""
    above: dict[str, set[str]] = {}
    try:
        # Parents come first. Sorted, so that of several cycles always the same is reported.
        for label in TopologicalSorter({k: sorted(parents[k]) for k in sorted(parents)}).static_order():
            above[label] = parents[label].union(*(above[parent] for parent in parents[label]))
    except CycleError as error:
        # From above to below, the first label again at the end.
        circle = error.args[1][:0:-1]
        start = circle.index(min(circle))
        text = " below ".join((*circle[start:], *circle[:start], circle[start]))
        raise UserError(f"hierarchy {path} has a cycle: {text}; take one of these entries out") from error
    return above
