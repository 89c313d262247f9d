"""Draws where HTD looks: level weights and border ring of regression, graph neighbors of classification.

Symbols: R RoIs of the image, P of them that are regressed, n of one level, L levels, S side of the pooled
map. Boxes are XYXY.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from htd.layers import ContinuousBoxes
from htd.modeling.cascade import CascadeStage, RoIContext, RoIs
from htd.modeling.htd import BorderTerm, DecoupledHead, LevelWeightedTerm, ProposalGraph
from htd.modeling.htd.graph import class_semantics
from htd.visualize.closeup import Bar, Closeup, Style, draw_closeups
from htd.visualize.drawers.base import (
    Call,
    Drawer,
    Scene,
    find,
    in_image,
    index_of,
    label,
    roi_origins,
    shown_once,
)

_DETECTION, _ROI = Style("detection", "lime", "-"), Style("its RoI", "white", "-")
_RING = Style("bins of the border ring (finest level)", "cyan", ".")
_NEIGHBORS = tuple(
    Style(f"neighbor {rank}", color, "--")
    for rank, color in enumerate(("orange", "magenta", "yellow", "red"), 1)
)
_WEIGHT, _OTHERS = "deepskyblue", "gray"


class Regressed(NamedTuple):
    """What the regression of a stage was given and gave."""

    context: RoIContext  # of the image
    boxes: Tensor  # (P, 4), the RoIs, in pixels of the network's input
    deltas: Tensor  # (P, B)

    @classmethod
    def of(cls, call: Call) -> Regressed:
        """Read the call of the regression, which is given (context, RoIs)."""
        context, rois = call.inputs
        return cls(context, rois.boxes, call.output)


class HTDDrawer(Drawer):
    """The RoIs of the best detections: what regression reads of each above, its neighbors below.

    A model is drawn if the head of some stage has a :class:`htd.modeling.htd.LevelWeightedTerm`, a
    :class:`htd.modeling.htd.BorderTerm` or a :class:`htd.modeling.htd.ProposalGraph`; of several such stages
    the last.
    """

    name = "htd"

    def __init__(self, stage: CascadeStage):
        self.stage = stage
        self.border = find(stage.head, BorderTerm)
        parts = {
            "regression": stage.head.regression,
            "weights": find(stage.head, LevelWeightedTerm),
            "border": self.border,
            "graph": find(stage.head, ProposalGraph),
        }
        super().__init__({name: part for name, part in parts.items() if part is not None})

    @classmethod
    def of(cls, model: nn.Module) -> HTDDrawer | None:
        """Return a drawer if some stage of the model is one that is drawn."""
        stages = [m for m in model.modules() if isinstance(getattr(m, "head", None), DecoupledHead)]
        drawers = [drawer for drawer in map(cls, stages) if len(drawer.parts) > 1]
        return drawers[-1] if drawers else None

    @torch.no_grad()
    def draw(self, scene: Scene, calls: Mapping[str, list[Call]]) -> np.ndarray | None:
        """Return a column for each RoI, None if there is no detection."""
        if not len(scene.detections):
            return None
        seen = Regressed.of(calls["regression"][-1])
        shown = shown_once(roi_origins(self.stage, *seen, scene), scene)
        grid = [[self._regression(seen, calls, roi, d, scene) for roi, d in shown.items()]]
        if "graph" in calls:
            call, convention = calls["graph"][-1], seen.context.box_convention
            rois = ((index_of(call.inputs[1].boxes, seen.boxes[roi]), d) for roi, d in shown.items())
            grid.append([_neighborhood(call, roi, d, scene, convention) for roi, d in rois])
        return draw_closeups(scene.image_rgb, grid)

    def _regression(
        self, seen: Regressed, calls: Mapping[str, list[Call]], roi: int, detection: int, scene: Scene
    ) -> Closeup:
        """Return the close-up of a regressed RoI."""
        box = in_image(seen.boxes[roi : roi + 1], scene, seen.context.box_convention)[0]
        drawn = [(_DETECTION, scene.detections.pred_boxes.tensor[detection].numpy()), (_ROI, box.numpy())]
        if "border" in calls:
            bins = calls["border"][-1].output.shape[-1]
            drawn.append((_RING, ring(box, bins, self.border.edge).numpy()))
        bars = []
        if "weights" in calls:
            weights = level_weights(self.parts["weights"], calls["weights"])[:, roi]
            strides = seen.context.table.strides
            bars = [Bar(f"stride {s}", float(w), _WEIGHT) for s, w in zip(strides, weights, strict=True)]
        return Closeup(label(scene, detection), drawn, bars=bars)


def level_weights(term: LevelWeightedTerm, calls: list[Call]) -> Tensor:
    """Return the weights (L, P) of the levels for the RoIs of all calls, which each saw some of them."""
    return torch.cat([term.weights(*call.inputs) for call in calls], dim=1)


def ring(box: Tensor, bins: int, edge: int) -> Tensor:
    """Return the middles of the bins that a border of ``edge`` bins of a box (4,) keeps.

    Returns:
        (n, 2, 2), each middle twice, as points that have not moved, (x, y).
    """
    kept = BorderTerm(edge=edge)(torch.ones(1, 1, 1, bins, bins))[0, 0]
    middles = (kept.nonzero().flip(1) + 0.5) / bins
    points = box[:2] + (box[2:] - box[:2]) * middles
    return torch.stack([points, points], dim=1)


def graph_weights(call: Call, roi: int) -> tuple[Tensor, Tensor]:
    """Return the RoIs (n,) of its level that a RoI is classified together with, and their weights (n,).

    Weights are those of their features in the layer of the level: not negative, and need not sum to one.
    """
    embedding, rois, classifier = call.inputs
    members = (rois.levels == rois.levels[roi]).nonzero().squeeze(1)
    semantics = class_semantics(embedding[members], classifier)
    identity = torch.eye(len(members), device=semantics.device, dtype=semantics.dtype)
    mixed = ProposalGraph.mix(rois.boxes[members], identity, semantics)
    return members, mixed[(members == roi).nonzero()[0, 0]]


def _neighborhood(call: Call, roi: int, detection: int, scene: Scene, convention: ContinuousBoxes) -> Closeup:
    """Return the full image with a RoI and those that count most for it."""
    rois: RoIs = call.inputs[1]
    members, weights = graph_weights(call, roi)
    shares, order = (weights / weights.sum()).sort(descending=True, stable=True)
    best = members[order[: len(_NEIGHBORS)]]
    boxes = in_image(rois.boxes[[roi, *best.tolist()]], scene, convention).numpy()
    bars = [Bar(s.label, float(x), s.color) for s, x in zip(_NEIGHBORS, shares, strict=False)]
    bars += [Bar("none", 0.0, _OTHERS)] * (len(_NEIGHBORS) - len(bars))
    rest = len(members) - len(best)
    bars.append(Bar(f"{rest} others", float(shares[len(best) :].sum()), _OTHERS))
    marks = [*zip(_NEIGHBORS, boxes[1:], strict=False), (_ROI, boxes[0])]
    heading = f"{label(scene, detection)}: graph of {len(members)} RoIs"
    return Closeup(heading, marks, full=True, bars=bars)
