"""Guesses what is wrong when weights do not fit a model: another system, backbone or class count."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from htd.checkpoint.formats import FORMATS, Format

Shapes = Mapping[str, tuple[int, ...]]

_DEPTHS = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}
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

    @property
    def tag(self) -> str:
        """The part of a config's name that stands for it."""
        return f"r{self.depth}" if self.groups == 1 else f"x{self.depth}_{self.groups}x{self.width}d"

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


def explain(form: Format, published: Shapes, model: Shapes) -> list[str]:
    """Return one sentence for each probable cause of a misfit.

    Args:
        form: format of the file.
        published: shapes of the file under our names.
        model: shapes of the model.
    """
    return [*_system(form, model), *_backbone(form, published, model), *_classes(published, model)]


def _system(form: Format, model: Shapes) -> Iterator[str]:
    if not any(name.startswith("backbone.") for name in model):
        return  # a part tells too little
    owner = next((other for other in FORMATS.values() if other.owns(model)), None)
    if owner is not form:
        kind = owner.title if owner else "another detector"
        yield f"The file is of {form.title}, the model of {kind}{_fitting(form, '*', '*')}."


def _backbone(form: Format, published: Shapes, model: Shapes) -> Iterator[str]:
    theirs, ours = backbone_of(published), backbone_of(model)
    if theirs and ours and theirs != ours:
        configs = _fitting(form, theirs.tag, "_dcn" * theirs.deformable)
        yield f"The file has a {theirs}, the model a {ours}{configs}."


def _fitting(form: Format, backbone: str, dcn: str) -> str:
    if not form.configs:
        return ""
    return f"; configs that fit the file: {form.configs.format(backbone=backbone, dcn=dcn)}"


def _classes(published: Shapes, model: Shapes) -> Iterator[str]:
    both = {name: (published[name], model[name]) for name in published.keys() & model.keys()}
    rows = {
        name: (theirs[0], ours[0])
        for name, (theirs, ours) in sorted(both.items())
        if theirs and ours and theirs[0] != ours[0] and theirs[1:] == ours[1:]
    }
    score = next((sizes for name, sizes in rows.items() if "cls_score." in name), None)
    if score:
        parts = " ".join(dict.fromkeys(name.rpartition(".")[0] for name in rows))
        yield (
            f"The classifier has {score[0]} rows in the file and {score[1]} in the model (one a class, one "
            f"for the background): set the model's num_classes, or name these parts as new: {parts}."
        )
