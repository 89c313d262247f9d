"""Draws where TOOD looks: the score map of a level, and where each side of a box is read.

Symbols: P priors of all levels, K classes, D detections. Boxes are XYXY.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from htd.modeling.dense import Priors
from htd.modeling.tood import SampledBoxDecoder
from htd.visualize.canvas import heat_map
from htd.visualize.closeup import Closeup, Style, draw_closeups
from htd.visualize.drawers.base import (
    Call,
    Drawer,
    Scene,
    class_scores,
    in_image,
    label,
    level_of,
    points_in_image,
    prior_origins,
    shown_once,
)

_BEFORE = Style("box before alignment", "white", "--")
_ALIGNED = Style("aligned box", "lime", "-")
_PRIOR = Style("prior", "white", ".")
_SIDES = tuple(
    Style(f"{side} side: where it is read", color, ".")
    for side, color in (("left", "orange"), ("upper", "cyan"), ("right", "magenta"), ("lower", "yellow"))
)


class Looked(NamedTuple):
    """What a model predicted at its priors, in pixels of the network's input."""

    priors: Priors
    scores: Tensor  # (P, K), those of classes, times the centerness if there is one
    before: Tensor  # (P, 4), boxes before they are aligned
    aligned: Tensor  # (P, 4)
    places: Tensor  # (P, 4, 2), where left, upper, right and lower sides of aligned boxes were read, (x, y)

    @classmethod
    def of(cls, model: nn.Module, head: Call) -> Looked:
        """Read the call of the head, which is given the maps of the levels."""
        priors, predictions = model.priors(head.inputs[0]), head.output
        regression, decoder = predictions.regression, model.decoder
        aligned = decoder(regression, priors)[0]
        sampled = SampledBoxDecoder(decoder=decoder.decoder, repair=False)(regression, priors)[0]
        # Repaired boxes were not sampled: all of them was read at the prior.
        offsets = torch.where((sampled != aligned).any(dim=1, keepdim=True), 0, regression[0, :, -8:])
        ways = offsets.unflatten(1, (4, 2)).flip(2) * priors.prior_strides[:, None, None]
        before = decoder.decoder(regression[..., :-8], priors)[0]
        places = priors.centers[:, None] + ways
        return cls(priors, class_scores(predictions), before, aligned, places)


class TOODDrawer(Drawer):
    """Score maps of the levels that the best detections come from, and these detections close up.

    A model is drawn if its head has the parts ``predictors.score_map`` and ``predictors.box_offsets``.
    """

    name = "tood"

    def __init__(self, model: nn.Module):
        super().__init__({"head": model.head, "score_map": model.head.predictors.score_map})
        self.model = model

    @classmethod
    def of(cls, model: nn.Module) -> TOODDrawer | None:
        """Return a drawer if the model has what is drawn."""
        parts = dict(model.named_modules())
        wanted = ("head.predictors.score_map", "head.predictors.box_offsets")
        return cls(model) if all(name in parts for name in wanted) else None

    def draw(self, scene: Scene, calls: Mapping[str, list[Call]]) -> np.ndarray | None:
        """Return score maps and close-ups in one row, None if there is no detection."""
        if not len(scene.detections):
            return None
        looked = Looked.of(self.model, calls["head"][-1])
        shown = shown_once(prior_origins(looked.aligned, looked.scores, scene), scene)
        maps = [call.output[0, 0].float().sigmoid() for call in calls["score_map"]]
        levels = sorted({level_of(looked.priors, prior) for prior in shown})
        closeups = [_map_of_level(looked, level, maps[level], shown, scene) for level in levels]
        for prior, detection in shown.items():
            stride = looked.priors.strides[level_of(looked.priors, prior)]
            heading = f"{label(scene, detection)}, at stride {stride}"
            closeups.append(Closeup(heading, marks(looked, prior, scene)))
        return draw_closeups(scene.image_rgb, [closeups])


def marks(looked: Looked, prior: int, scene: Scene) -> list[tuple[Style, np.ndarray]]:
    """Return what is drawn of a prior, in the frame of the image.

    The ways of a side lead to the place where it was read: from the prior, and, straight, from the side.
    """
    before, aligned = (in_image(x[prior : prior + 1], scene)[0] for x in (looked.before, looked.aligned))
    start = points_in_image(looked.priors.centers[prior], scene)
    places = points_in_image(looked.places[prior], scene)
    drawn = [(_BEFORE, before.numpy()), (_ALIGNED, aligned.numpy())]
    for side, (style, place) in enumerate(zip(_SIDES, places, strict=True)):
        foot = place.clone()
        foot[side % 2] = aligned[side]
        drawn.append((style, torch.stack([torch.stack([start, place]), torch.stack([foot, place])]).numpy()))
    return [*drawn, (_PRIOR, start.expand(1, 2, 2).numpy())]


def _map_of_level(
    looked: Looked, level: int, values: Tensor, shown: Mapping[int, int], scene: Scene
) -> Closeup:
    priors = looked.priors
    first = priors.split(priors.centers)[level][0]
    step = points_in_image(torch.full((2,), float(priors.strides[level])), scene)
    heat = heat_map(
        values.cpu().numpy(), points_in_image(first, scene).numpy(), step.numpy(), scene.image_rgb
    )
    own = [prior for prior in shown if level_of(looked.priors, prior) == level]
    boxes = [(_ALIGNED, box.numpy()) for box in in_image(looked.aligned[own], scene)]
    points = points_in_image(priors.centers[own], scene)
    heading = f"score map at stride {priors.strides[level]}, up to {float(values.max()):.2f}"
    return Closeup(heading, [*boxes, (_PRIOR, torch.stack([points, points], dim=1).numpy())], heat, full=True)
