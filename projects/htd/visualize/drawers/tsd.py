"""Draws where TSD looks: the proposal, the box that regression works on, the points of classification.

Symbols: R RoIs of the image, P of them that are regressed, S bins a side. Offsets are (x, y), fractions of a
RoI's width and height.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from htd.modeling.cascade import RoIContext
from htd.modeling.tsd.head import shift_boxes
from htd.visualize.closeup import Closeup, Style, draw_closeups
from htd.visualize.drawers.base import (
    Call,
    Drawer,
    Scene,
    in_image,
    index_of,
    label,
    roi_origins,
    shown_once,
)

_PROPOSAL = Style("proposal", "white", "--")
_SHIFTED = Style("shifted box (regression)", "orange", "-")
_POINTS = Style("class points, from their bins", "cyan", ".")
_DETECTION = Style("detection", "lime", "-")
_TOWERS = ("classification", "regression")


class Seen(NamedTuple):
    """What went through the towers of one head, in pixels of the network's input."""

    context: RoIContext
    boxes: Tensor  # (R, 4), the RoIs
    points: Tensor | None  # offsets (R, 2, S, S) of the bins; None if classification looks at the RoI itself
    regressed: Tensor  # (P, 4), those of the RoIs that are regressed
    shifts: Tensor | None  # their offsets (P, 2); None if regression looks at the RoI itself
    deltas: Tensor  # (P, B), relative to the shifted boxes

    @classmethod
    def of(cls, classification: Call, regression: Call) -> Seen:
        """Read the calls of the two towers, which are given (context, RoIs, features, offsets)."""
        context, rois, _, points = classification.inputs
        _, regressed, _, shifts = regression.inputs
        return cls(context, rois.boxes, points, regressed.boxes, shifts, regression.output)


class TSDDrawer(Drawer):
    """The RoIs of the best detections, close up, a row for each stage.

    A stage (given by its name in the model) is drawn if its head has the parts ``classification.shift`` and
    ``regression.shift`` and one of them has parameters; :class:`htd.modeling.tsd.NoShift` has none.
    """

    name = "tsd"

    def __init__(self, stages: Mapping[str, nn.Module]):
        super().__init__({f"{name}.{t}": getattr(s.head, t) for name, s in stages.items() for t in _TOWERS})
        self.stages = dict(stages)

    @classmethod
    def of(cls, model: nn.Module) -> TSDDrawer | None:
        """Return a drawer if some stage of the model is one that is drawn."""
        modules = dict(model.named_modules())
        stages = {}
        for name, module in modules.items():
            shifts = [modules.get(f"{name}.head.{tower}.shift") for tower in _TOWERS]
            if None not in shifts and any(len(list(shift.parameters())) for shift in shifts):
                stages[name] = module
        return cls(stages) if stages else None

    def draw(self, scene: Scene, calls: Mapping[str, list[Call]]) -> np.ndarray | None:
        """Return close-ups of the RoIs of the best detections, None if there is no detection."""
        if not len(scene.detections):
            return None
        seen = {
            name: Seen.of(calls[f"{name}.classification"][-1], calls[f"{name}.regression"][-1])
            for name in self.stages
        }
        last = list(self.stages)[-1]
        shown = shown_once(origins(self.stages[last], seen[last], scene), scene)
        grid = []
        for name in self.stages:
            stage = f"stage {name.rpartition('.')[2]}: " if len(self.stages) > 1 else ""
            grid.append(
                [Closeup(stage + label(scene, d), marks(seen[name], r, d, scene)) for r, d in shown.items()]
            )
        return draw_closeups(scene.image_rgb, grid)


def origins(stage: nn.Module, seen: Seen, scene: Scene) -> list[int]:
    """Return for each detection the RoI (0..R-1) that it comes from."""
    moved = seen.regressed if seen.shifts is None else shift_boxes(seen.regressed, seen.shifts)
    regressed = roi_origins(stage, seen.context, moved, seen.deltas, scene)
    return [index_of(seen.boxes, seen.regressed[roi]) for roi in regressed]


def marks(seen: Seen, roi: int, detection: int, scene: Scene) -> list[tuple[Style, np.ndarray]]:
    """Return what is drawn, in the frame of the image, of a RoI and the detection from it."""
    proposal = in_image(seen.boxes[roi : roi + 1], scene, seen.context.box_convention)
    box = scene.detections.pred_boxes.tensor[detection]
    drawn = [(_DETECTION, box.numpy()), (_PROPOSAL, proposal[0].numpy())]
    if seen.shifts is not None:
        offset = seen.shifts[index_of(seen.regressed, seen.boxes[roi])].cpu()
        drawn.append((_SHIFTED, shift_boxes(proposal, offset[None])[0].numpy()))
    if seen.points is not None:
        drawn.append((_POINTS, bin_ways(proposal[0], seen.points[roi].cpu()).numpy()))
    return drawn


def bin_ways(box: Tensor, offsets: Tensor) -> Tensor:
    """Return from where to where offsets (2, S, S) move the bins of a box (4,): (S * S, 2, 2), as (x, y)."""
    bins = offsets.shape[-1]
    middles = (torch.arange(bins, device=box.device) + 0.5) / bins
    y, x = torch.meshgrid(middles, middles, indexing="ij")
    start = torch.stack([x, y])
    ways = torch.stack([start, start + offsets]).flatten(2).permute(2, 0, 1)
    return box[:2] + (box[2:] - box[:2]) * ways
