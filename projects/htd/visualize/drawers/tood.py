"""Draws where TOOD looks: the score map of a level, and where each side of a box is read.

Symbols: P priors of all levels, K classes, D detections. Boxes are XYXY.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from htd.layers import clip_boxes, rescale_boxes
from htd.modeling.dense import Priors
from htd.modeling.tood import SampledBoxDecoder
from htd.visualize.canvas import class_name
from htd.visualize.closeup import Closeup, Style, draw_closeups
from htd.visualize.drawers.base import Call, Drawer, Scene

_BEFORE = Style("box before alignment", "white", "--")
_ALIGNED = Style("aligned box", "lime", "-")
_PRIOR = Style("prior", "white", ".")
_SIDES = tuple(
    Style(f"{side} side: where it is read", colour, ".")
    for side, colour in (("left", "orange"), ("upper", "cyan"), ("right", "magenta"), ("lower", "yellow"))
)
_MAP_SHARE = 0.6  # of the score map in what is shown of map and image
_ROUNDING = 0.1  # pixels that a detection may lie from the box that it was made of


class Looked(NamedTuple):
    """What a model predicted at its priors, in pixels of the network's input.

    Attributes:
        priors: of the image.
        scores: (P, K), those of classes, times the centerness if there is one.
        before: (P, 4), boxes before they are aligned.
        aligned: (P, 4).
        places: (P, 4, 2), where the left, upper, right and lower side of aligned boxes were read, as (x, y).
    """

    priors: Priors
    scores: Tensor
    before: Tensor
    aligned: Tensor
    places: Tensor

    @classmethod
    def of(cls, model: nn.Module, head: Call) -> Looked:
        """Read the call of the head, which is given the maps of the levels."""
        priors, predictions = model.priors(head.inputs[0]), head.output
        scores = predictions.logits[0].sigmoid()
        if predictions.centerness is not None:
            scores = scores * predictions.centerness[0].sigmoid()[:, None]
        regression, decoder = predictions.regression, model.decoder
        aligned = decoder(regression, priors)[0]
        sampled = SampledBoxDecoder(decoder=decoder.decoder, repair=False)(regression, priors)[0]
        # Repaired boxes were not sampled: all of them was read at the prior.
        offsets = torch.where((sampled != aligned).any(dim=1, keepdim=True), 0, regression[0, :, -8:])
        ways = offsets.unflatten(1, (4, 2)).flip(2) * priors.stride_of_each[:, None, None]
        before = decoder.decoder(regression[..., :-8], priors)[0]
        return cls(priors, scores, before, aligned, priors.centers[:, None] + ways)

    def level_of(self, prior: int) -> int:
        """Return the number of the level of a prior."""
        ends = np.cumsum(self.priors.level_sizes)
        return int(np.searchsorted(ends, prior, side="right"))


class TOODDrawer(Drawer):
    """Score maps of the levels that the best detections come from, and these detections close up.

    A model is drawn if its head has the parts ``predictors.score_map`` and ``predictors.box_offsets``.

    Args:
        model: a dense detector.
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
        best: dict[int, int] = {}
        for detection, prior in enumerate(origins(looked, scene)):
            best.setdefault(prior, detection)  # a prior may be detected as several classes
        shown = dict(list(best.items())[: scene.max_regions])
        maps = [call.output[0, 0].float().sigmoid() for call in calls["score_map"]]
        levels = sorted({looked.level_of(prior) for prior in shown})
        row = [_map_of_level(looked, level, maps[level], shown, scene) for level in levels]
        for prior, detection in shown.items():
            stride = looked.priors.strides[looked.level_of(prior)]
            heading = f"{_label(scene, detection)}, at stride {stride}"
            row.append(Closeup(heading, marks(looked, prior, scene)))
        return draw_closeups(scene.image_rgb, [row])


def origins(looked: Looked, scene: Scene) -> list[int]:
    """Return for each detection the prior (0..P-1) that it comes from.

    Detections do not say it: it is the one whose box, as it is or clipped to the image, lies where the
    detection is, and of several the one whose score is most like the detection's.
    """
    boxes = _in_image(looked.aligned, scene)
    clipped = clip_boxes(boxes, scene.image_rgb.shape[:2])
    found = scene.detections
    rows = []
    for box, k, score in zip(found.pred_boxes.tensor, found.pred_classes, found.scores, strict=True):
        away, away_clipped = ((x - box).abs().sum(dim=1).nan_to_num(nan=torch.inf) for x in (boxes, clipped))
        distance = torch.minimum(away, away_clipped)
        unlike = (looked.scores[:, int(k)].cpu() - score).abs()
        rows.append(int(unlike.masked_fill(distance > distance.min() + _ROUNDING, torch.inf).argmin()))
    return rows


def marks(looked: Looked, prior: int, scene: Scene) -> list[tuple[Style, np.ndarray]]:
    """Return what is drawn of a prior, in the frame of the image.

    The ways of a side lead to the place where it was read: from the prior, and, straight, from the side.
    """
    before, aligned = (_in_image(x[prior : prior + 1], scene)[0] for x in (looked.before, looked.aligned))
    start = _points_in_image(looked.priors.centers[prior], scene)
    places = _points_in_image(looked.places[prior], scene)
    found = [(_BEFORE, before.numpy()), (_ALIGNED, aligned.numpy())]
    for side, (style, place) in enumerate(zip(_SIDES, places, strict=True)):
        foot = place.clone()
        foot[side % 2] = aligned[side]
        found.append((style, torch.stack([torch.stack([start, place]), torch.stack([foot, place])]).numpy()))
    return [*found, (_PRIOR, start.expand(1, 2, 2).numpy())]


def heat_map(values: np.ndarray, first: np.ndarray, step: np.ndarray, image_rgb: np.ndarray) -> np.ndarray:
    """Lay a map of a level over an image: black, red, yellow as it rises from 0 to its own maximum.

    Args:
        values: (h, w), at least 0.
        first: (x, y) of the first cell's place, in pixels of the image.
        step: from cell to cell in x and in y, in pixels of the image.
        image_rgb: (H, W, 3) uint8.

    Returns:
        (H, W, 3) uint8.
    """
    size = image_rgb.shape[1::-1]
    shade = np.uint8(255 * values / max(values.max(), 1e-6))
    # Each pixel's middle, in cells.
    back = np.array(
        [[1 / step[0], 0, (0.5 - first[0]) / step[0]], [0, 1 / step[1], (0.5 - first[1]) / step[1]]]
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    shade = cv2.warpAffine(shade, back, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    heat = cv2.cvtColor(cv2.applyColorMap(shade, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    grey = cv2.cvtColor(cv2.cvtColor(image_rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(heat, _MAP_SHARE, grey, 1 - _MAP_SHARE, 0)


def _map_of_level(
    looked: Looked, level: int, values: Tensor, shown: Mapping[int, int], scene: Scene
) -> Closeup:
    priors = looked.priors
    first = priors.split(priors.centers)[level][0]
    step = _points_in_image(torch.full((2,), float(priors.strides[level])), scene)
    heat = heat_map(
        values.cpu().numpy(), _points_in_image(first, scene).numpy(), step.numpy(), scene.image_rgb
    )
    own = [prior for prior in shown if looked.level_of(prior) == level]
    boxes = [(_ALIGNED, box.numpy()) for box in _in_image(looked.aligned[own], scene)]
    points = _points_in_image(priors.centers[own], scene)
    heading = f"score map at stride {priors.strides[level]}, up to {float(values.max()):.2f}"
    return Closeup(heading, [*boxes, (_PRIOR, torch.stack([points, points], dim=1).numpy())], heat)


def _label(scene: Scene, detection: int) -> str:
    found = scene.detections[detection]
    return f"{class_name(int(found.pred_classes), scene.class_names)} {float(found.scores):.2f}"


def _in_image(boxes: Tensor, scene: Scene) -> Tensor:
    """Bring boxes (n, 4) from the network's input to the frame of the image, on the CPU."""
    return rescale_boxes(boxes, scene.network_size, scene.image_rgb.shape[:2]).float().cpu()


def _points_in_image(points: Tensor, scene: Scene) -> Tensor:
    """Bring points (..., 2) from the network's input to the frame of the image, on the CPU."""
    (height, width), (rows, columns) = scene.image_rgb.shape[:2], scene.network_size
    return points.float().cpu() * torch.tensor([width / columns, height / rows])
