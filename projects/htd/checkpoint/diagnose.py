"""Guesses what is wrong when weights do not fit a model: another system, backbone or class count."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from htd.checkpoint.formats import FORMATS, Format
from htd.layers import ContinuousBoxes, InclusiveBoxes

Shapes = Mapping[str, tuple[int, ...]]

_DEPTHS = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}
# Rows of a classifier for the challenge classes of OpenImages and the background.
_OPENIMAGES_ROWS = 501
# What the corners of boxes do: continuous, inclusive.
_CORNERS = ("end between pixels", "name their first and last pixel")
# What can be hung on a detector, and how messages call it.
_ADDED = {
    "roi_heads.mask_branch": "mask branch",
    "roi_heads.mask_branch.flow": "mask information flow",
    "roi_heads.context.semantic": "semantic branch",
}
# In the name of a config: deformable layers, of either version; with x there are more of them.
_DEFORMABLE = re.compile(r"_dcn(v2|x)?_")
# The 3x3 convolution of a block, in a Res2Net the first of them.
_BLOCK = re.compile(r"(?:^|\.)res([2-5])\.(\d+)\.(?:conv2|convs\.0)\.weight$")
_SPLIT = re.compile(r"(?:^|\.)res2\.0\.convs\.\d+\.weight$")
_OFFSET = re.compile(r"(?:^|\.)(res[2-5])\.\d+\.(?:conv2|convs\.\d+)[._]offset\.")


@dataclass(frozen=True)
class Backbone:
    """A residual network, as far as its shapes tell.

    Attributes:
        name: how messages call it.
        tag: how the names of configs call it.
        deformable: stages with an offset layer, in order.
    """

    name: str
    tag: str
    deformable: tuple[str, ...]

    def has_config(self, config: str) -> bool:
        """Tell whether a config, by its name, builds this backbone."""
        return f"_{self.tag}_fpn_" in config and bool(_DEFORMABLE.search(config)) == bool(self.deformable)

    def __str__(self) -> str:
        *others, last = self.deformable or ("",)
        stages = f"{', '.join(others)} and {last}" if others else last
        return self.name + (f" with deformable layers in {stages}" if stages else "")


def backbone_of(shapes: Shapes) -> Backbone | None:
    """Recognize the residual network among our parameter names; None if it is none of the usual ones."""
    blocks = {(int(m[1]), int(m[2])): shapes[name] for name in shapes if (m := _BLOCK.search(name))}
    depth = _DEPTHS.get(tuple(sum(stage == s for s, _ in blocks) for stage in range(2, 6)))
    if depth is None or (2, 0) not in blocks:
        return None
    out_channels, width = blocks[2, 0][:2]
    groups, splits = out_channels // width, 1 + sum(bool(_SPLIT.search(name)) for name in shapes)
    if any(".se_module." in name for name in shapes):
        named = "SENet-154", "senet154"
    elif splits > 1:
        named = f"Res2Net-{depth} {width}w {splits}s", f"r2_{depth}"
    elif groups > 1:
        named = f"ResNeXt-{depth} {groups}x{width}d", f"x{depth}_{groups}x{width}d"
    else:
        named = f"ResNet-{depth}", f"r{depth}"
    stages = {m[1] for name in shapes if (m := _OFFSET.search(name))}
    return Backbone(*named, tuple(sorted(stages)))


def explain(
    form: Format, published: Shapes, model: Shapes, missing: Sequence[str], decoder: object | None = None
) -> list[str]:
    """Return one sentence for each probable cause of a misfit.

    Args:
        form: format of the file.
        published: shapes of the file under our names, in our layout.
        model: shapes of the model.
        missing: names of the model that the file does not fill and that may not begin anew.
        decoder: that of a dense model; None: there is none.
    """
    systems = [*_system(form, model, decoder)]
    others = [*systems, *_backbone(published, model)]
    if others:
        others[-1] += _fitting(form, published)
    return [
        *(f"{other}." for other in others),
        *_parts(published, missing),
        *_classes(form, published, model, () if systems else form.overrides),
    ]


def other_boxes(form: Format, published: Shapes, convention: ContinuousBoxes | None) -> str:
    """Return what is wrong if the weights were trained with other boxes than those of the model, else "".

    The shapes do not show it, and the detections would be off by up to a pixel.

    Args:
        form, published: as in :func:`explain`.
        convention: that of the model's RoI heads; None: a part without, which any weights fit.
    """
    if form.convention is None or convention is None:
        return ""
    theirs, ours = issubclass(form.convention, InclusiveBoxes), isinstance(convention, InclusiveBoxes)
    if theirs == ours:
        return ""
    return (
        f"weights of {form.title} were trained with boxes that {_CORNERS[theirs]}, those of this model "
        f"{_CORNERS[ours]}: the shapes may fit, but boxes would be a pixel off" + _fitting(form, published)
    )


def other_decoder(form: Format, published: Shapes, decoder: object | None) -> str:
    """Return what is wrong if the weights fit but the model decodes boxes otherwise, else "".

    FCOS and ATSS have the same parameters, but one regresses distances and the other deltas.

    Args:
        form, published, decoder: as in :func:`explain`.
    """
    if form.is_for(decoder):
        return ""
    return (
        f"weights of {form.title} are for a {form.decoder.__name__}, the model has a "
        f"{type(decoder).__name__}: the shapes fit, but boxes would be wrong" + _fitting(form, published)
    )


def _system(form: Format, model: Shapes, decoder: object | None) -> Iterator[str]:
    if not any(name.startswith("backbone.") for name in model):
        return  # a part tells too little
    owner = next((other for other in FORMATS.values() if other.owns(model, decoder)), None)
    if owner is None or not owner.same_system(form):
        yield f"The file is of {form.title}, the model of {owner.title if owner else 'another detector'}"


def _backbone(published: Shapes, model: Shapes) -> Iterator[str]:
    theirs, ours = backbone_of(published), backbone_of(model)
    if theirs and ours and theirs != ours:
        yield f"The file has a {theirs}, the model a {ours}"


def _fitting(form: Format, published: Shapes) -> str:
    """Return which of our configs the file fits."""
    if not form.configs:
        return ""
    return f"; configs that fit the file: {', '.join(_configs(form, published)) or 'none'}"


def _configs(form: Format, published: Shapes) -> list[str]:
    """Return our configs for the file's backbone, if it is known; if some are for its data, these."""
    backbone = backbone_of(published)
    fitting = [name for name in form.configs if backbone is None or backbone.has_config(name)]
    scores = [shape for name, shape in published.items() if name.endswith("cls_score.bias")]
    deformed = backbone.deformable if backbone else ()
    for tag, wanted in {"_openimages": (_OPENIMAGES_ROWS,) in scores, "_dcnx_": "res3" in deformed}.items():
        fitting = [name for name in fitting if (tag in name) == wanted] or fitting
    return fitting


def _parts(published: Shapes, missing: Sequence[str]) -> Iterator[str]:
    """Name the parts that the model has beyond the file, if nothing else is missing."""
    absent = [part for part in _ADDED if _below(part, missing) and not _below(part, published)]
    outer = [part for part in absent if not any(part.startswith(f"{other}.") for other in absent)]
    if outer and all(name.startswith(tuple(f"{part}." for part in outer)) for name in missing):
        titles = " and no ".join(_ADDED[part] for part in outer)
        yield f"The file has no {titles}: to begin anew there, give --new {' '.join(outer)}."


def _below(part: str, names: Iterable[str]) -> bool:
    return any(name.startswith(f"{part}.") for name in names)


def _classes(form: Format, published: Shapes, model: Shapes, overrides: Sequence[str]) -> Iterator[str]:
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
        fitting = _configs(form, published) if _OPENIMAGES_ROWS in score else []
        advice = "".join(f"take {name}, " for name in fitting)
        if overrides and score[1] == form.rows_before(score[0]):
            advice += f"override the config by {' '.join(overrides)}, "
        yield (
            f"The classifier has {score[0]} rows in the file and {score[1]} in the model "
            f"({form.classifier_rows}): {advice}set the model's num_classes, or name these parts as new: "
            f"{parts}."
        )
    elif labels:
        yield (
            f"The semantic branch knows {labels[0]} labels in the file and {labels[1]} in the model: take a "
            f"config for the file's kind of maps, or name this part as new: {parts}."
        )
