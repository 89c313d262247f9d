"""Guesses what is wrong when weights do not fit a model: another system, backbone or class count."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from htd.checkpoint.formats import FORMATS, Format

Shapes = Mapping[str, tuple[int, ...]]

_DEPTHS = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}
# What can be hung on a detector, and how messages call it.
_ADDED = {
    "roi_heads.mask_branch": "mask branch",
    "roi_heads.mask_branch.flow": "mask information flow",
    "roi_heads.context.semantic": "semantic branch",
}
_BLOCK = re.compile(r"(?:^|\.)res([2-5])\.(\d+)\.conv2\.weight$")


@dataclass(frozen=True)
class Backbone:
    """Family of a residual network, as far as its shapes tell.

    Attributes:
        depth: 50, 101 or 152.
        groups, width: groups of the 3x3 convolutions and channels of one group in res2.
        deformable: whether some block has an offset layer.
    """

    depth: int
    groups: int
    width: int
    deformable: bool

    def has_config(self, config: str) -> bool:
        """Tell whether a config, by its name, builds this backbone."""
        tag = f"r{self.depth}" if self.groups == 1 else f"x{self.depth}_{self.groups}x{self.width}d"
        return f"_{tag}_fpn_" in config and ("_dcn_" in config) == self.deformable

    def __str__(self) -> str:
        plain = self.groups == 1
        name = f"ResNet-{self.depth}" if plain else f"ResNeXt-{self.depth} {self.groups}x{self.width}d"
        return name + (" with deformable layers" if self.deformable else "")


def backbone_of(shapes: Shapes) -> Backbone | None:
    """Recognise the residual network among our parameter names; None if it is none of the usual ones."""
    blocks = {tuple(map(int, m.groups())): shapes[name] for name in shapes if (m := _BLOCK.search(name))}
    depth = _DEPTHS.get(tuple(sum(stage == s for s, _ in blocks) for stage in range(2, 6)))
    if depth is None or (2, 0) not in blocks:
        return None
    out_channels, width = blocks[2, 0][:2]
    deformable = any("conv2_offset" in name for name in shapes)
    return Backbone(depth, out_channels // width, width, deformable)


def explain(form: Format, published: Shapes, model: Shapes, missing: Sequence[str]) -> list[str]:
    """Return one sentence for each probable cause of a misfit.

    Args:
        form: format of the file.
        published: shapes of the file under our names.
        model: shapes of the model.
        missing: names of the model that the file does not fill and that may not begin anew.
    """
    others = [*_system(form, model), *_backbone(published, model)]
    if others:
        others[-1] += _fitting(form, backbone_of(published))
    return [*(f"{other}." for other in others), *_parts(published, missing), *_classes(published, model)]


def _system(form: Format, model: Shapes) -> Iterator[str]:
    if not any(name.startswith("backbone.") for name in model):
        return  # a part tells too little
    owner = next((other for other in FORMATS.values() if other.owns(model)), None)
    if owner is not form:
        yield f"The file is of {form.title}, the model of {owner.title if owner else 'another detector'}"


def _backbone(published: Shapes, model: Shapes) -> Iterator[str]:
    theirs, ours = backbone_of(published), backbone_of(model)
    if theirs and ours and theirs != ours:
        yield f"The file has a {theirs}, the model a {ours}"


def _fitting(form: Format, backbone: Backbone | None) -> str:
    """Return which of our configs the file fits; without a known backbone, those of its system."""
    if not form.configs:
        return ""
    names = [name for name in form.configs if backbone is None or backbone.has_config(name)]
    return f"; configs that fit the file: {', '.join(names) or 'none'}"


def _parts(published: Shapes, missing: Sequence[str]) -> Iterator[str]:
    """Name the parts that the model has beyond the file, if nothing else is missing."""
    absent = [part for part in _ADDED if _below(part, missing) and not _below(part, published)]
    outer = [part for part in absent if not any(part.startswith(f"{other}.") for other in absent)]
    if outer and all(name.startswith(tuple(f"{part}." for part in outer)) for name in missing):
        titles = " and no ".join(_ADDED[part] for part in outer)
        yield f"The file has no {titles}: to begin anew there, give --new {' '.join(outer)}."


def _below(part: str, names: Iterable[str]) -> bool:
    return any(name.startswith(f"{part}.") for name in names)


def _classes(published: Shapes, model: Shapes) -> Iterator[str]:
    both = {name: (published[name], model[name]) for name in published.keys() & model.keys()}
    rows = {
        name: (theirs[0], ours[0])
        for name, (theirs, ours) in sorted(both.items())
        if theirs and ours and theirs[0] != ours[0] and theirs[1:] == ours[1:]
    }
    parts = " ".join(dict.fromkeys(name.rpartition(".")[0] for name in rows))
    score = next((sizes for name, sizes in rows.items() if "cls_score." in name), None)
    labels = next((sizes for name, sizes in rows.items() if "semantic.predictor." in name), None)
    if score:
        yield (
            f"The classifier has {score[0]} rows in the file and {score[1]} in the model (one a class, one "
            f"for the background): set the model's num_classes, or name these parts as new: {parts}."
        )
    elif labels:
        yield (
            f"The semantic branch knows {labels[0]} labels in the file and {labels[1]} in the model: take a "
            f"config for the file's kind of maps, or name this part as new: {parts}."
        )
