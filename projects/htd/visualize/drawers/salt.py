"""Draws where SALT looks: the points of regression and of classification, and the coarse box around them.

Symbols: P priors and M cells of all levels, K classes, H x W cells of a level. Boxes are XYXY.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from htd.modeling.dense import Priors
from htd.modeling.salt.operator import POINTS, tap_offsets
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

_COARSE = Style("coarse box", "orange", "--")
_FINAL = Style("final box", "lime", "-")
_REGRESSION = Style("points of regression", "orange", ".")
_CLASSES = Style("points of classes, from those of regression", "cyan", ".")
_CELL = Style("cell", "white", ".")
_OPERATOR = "head.towers.operator"
_TASKS = ("regression", "classification")


class Looked(NamedTuple):
    """What a model predicted and where it looked, in pixels of the network's input.

    The operator knows cells alone: it reads the map at a cell's node, column and row times the stride, and at
    points around it. Hosts whose boxes start in the middle of a cell (FCOS) start half a cell from there, so
    their coarse boxes lie half a cell off the points that they lay out.
    """

    priors: Priors  # of the image
    scores: Tensor  # (P, K), those of classes, times the centerness if there is one
    boxes: Tensor  # (P, 4), final, as they are before they are suppressed and clipped
    coarse: Tensor  # (M, 4), around the host's points
    nodes: Tensor  # (M, 2), as (x, y)
    points: dict[str, Tensor]  # of each task (M, 9, 2), as (x, y)

    @classmethod
    def of(cls, model: nn.Module, calls: Mapping[str, list[Call]]) -> Looked:
        """Read the last call of the head, and those of the operator's two convolutions at its levels."""
        head = calls["head"][-1]
        priors = model.priors(head.inputs[0])
        strides = priors.prior_strides[:: priors.per_cell, None]
        # The convolutions are given (map, offsets), once a level.
        last = {task: calls[task][-len(priors.shapes) :] for task in _TASKS}
        cells = {task: torch.cat([places(call.inputs[1].float()) for call in last[task]]) for task in _TASKS}
        nodes = [torch.cartesian_prod(torch.arange(h), torch.arange(w)).flip(1) for h, w in priors.shapes]
        nodes = torch.cat(nodes).to(strides) * strides
        host = priors.centers[:: priors.per_cell]
        # Of the points of regression those with odd numbers lie on the sides of the coarse box.
        upper, left, right, lower = cells["regression"][:, 1::2].unbind(dim=1)
        sides = torch.stack([left[:, 0], upper[:, 1], right[:, 0], lower[:, 1]], dim=1)
        return cls(
            priors=priors,
            scores=class_scores(head.output),
            boxes=model.decoder(head.output.regression, priors)[0],
            coarse=host.repeat(1, 2) + sides * strides,
            nodes=nodes,
            points={task: nodes[:, None] + cells[task] * strides[:, None] for task in _TASKS},
        )


class SALTDrawer(Drawer):
    """The cells that the best detections come from, close up; several detections of a cell are shown once.

    A model is drawn if it has the parts ``head.towers.operator.regression`` and
    ``head.towers.operator.classification``, whatever detector the operator is in.
    """

    name = "salt"

    def __init__(self, model: nn.Module):
        operator = model.get_submodule(_OPERATOR)
        super().__init__({"head": model.head, **{task: getattr(operator, task) for task in _TASKS}})
        self.model = model

    @classmethod
    def of(cls, model: nn.Module) -> SALTDrawer | None:
        """Return a drawer if the model has what is drawn."""
        parts = dict(model.named_modules())
        return cls(model) if all(f"{_OPERATOR}.{task}" in parts for task in _TASKS) else None

    @torch.no_grad()
    def draw(self, scene: Scene, calls: Mapping[str, list[Call]]) -> np.ndarray | None:
        """Return close-ups in one row, None if there is no detection."""
        if not len(scene.detections):
            return None
        looked = Looked.of(self.model, calls)
        origins = prior_origins(looked.boxes, looked.scores, scene)
        per_cell = looked.priors.per_cell
        closeups = []
        for detection in shown_once([prior // per_cell for prior in origins], scene).values():
            stride = looked.priors.strides[level_of(looked.priors, origins[detection])]
            heading = f"{label(scene, detection)}, at stride {stride}"
            closeups.append(Closeup(heading, marks(looked, origins[detection], scene)))
        return draw_closeups(scene.image_rgb, [closeups])


def marks(looked: Looked, prior: int, scene: Scene) -> list[tuple[Style, np.ndarray]]:
    """Return what is drawn of a prior and its cell, in the frame of the image.

    A way leads to each point of classes from the point of regression that it was made of.
    """
    cell = prior // looked.priors.per_cell
    coarse, final = (in_image(x[None], scene)[0] for x in (looked.coarse[cell], looked.boxes[prior]))
    points, classes = (points_in_image(looked.points[task][cell], scene) for task in _TASKS)
    node = points_in_image(looked.nodes[cell], scene)
    return [
        (_COARSE, coarse.numpy()),
        (_FINAL, final.numpy()),
        (_CLASSES, torch.stack([points, classes], dim=1).numpy()),
        (_REGRESSION, torch.stack([points, points], dim=1).numpy()),
        (_CELL, node.expand(1, 2, 2).numpy()),
    ]


def places(offset: Tensor) -> Tensor:
    """Return where a 3x3 convolution with offsets (1, 18, H, W) samples: (H * W, 9, 2), from each cell."""
    points = offset - tap_offsets(torch.zeros_like(offset))
    return points[0].flatten(1).T.unflatten(1, (POINTS, 2)).flip(2)
