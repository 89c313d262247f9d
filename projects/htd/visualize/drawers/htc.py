"""Draws what HTC adds to a cascade: the semantic map of the image, and the mask of each stage.

Symbols: K semantic classes, h x w cells of the semantic map, n detections, M side of a mask. Boxes are XYXY.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from htd.modeling.cascade import MaskBranch, StagedROIHeads
from htd.modeling.htc import FusedSemanticHead, MaskInformationFlow
from htd.visualize.canvas import STRIP, class_color, class_name, color_map, heat_map, write
from htd.visualize.closeup import SIDE, Closeup, Style, draw_closeups
from htd.visualize.drawers.base import (
    Call,
    Drawer,
    Scene,
    find,
    in_image,
    label,
    points_in_image,
)

_DETECTION = Style("detection", "lime", "-")
_OUTLINE = Style("outline of the mask", "cyan", "o")
_COMMONEST = SIDE // STRIP - 1  # classes that the legend has room for, and a line for the others
_FINER = 8  # parts of a mask's cell in which its outline is looked for


class HTCDrawer(Drawer):
    """The semantic map above; below, of each of the best detections, the mask of each stage and their mean.

    A model is drawn if its RoI heads have a :class:`htd.modeling.htc.FusedSemanticHead`, or masks whose heads
    are joined by a :class:`htd.modeling.htc.MaskInformationFlow`.
    """

    name = "htc"

    def __init__(self, heads: StagedROIHeads):
        self.semantic = find(heads.context, FusedSemanticHead)
        branch = find(heads, MaskBranch)
        self.branch = branch if branch is not None and find(branch, MaskInformationFlow) else None
        parts = {} if self.semantic is None else {"semantic": self.semantic}
        if self.branch is not None:
            parts["rois"] = self.branch.features
            # The heads themselves are not called as modules; this layer is given what they have extracted.
            parts |= {f"head{k}": head.deconv for k, head in enumerate(self.branch.heads)}
            self.first_stage = len(heads.stages) - len(self.branch.heads)
        super().__init__(parts)

    @classmethod
    def of(cls, model: nn.Module) -> HTCDrawer | None:
        """Return a drawer if the model has what is drawn."""
        heads = find(model, StagedROIHeads)
        drawer = None if heads is None else cls(heads)
        return drawer if drawer is not None and drawer.parts else None

    @torch.no_grad()
    def draw(self, scene: Scene, calls: Mapping[str, list[Call]]) -> np.ndarray | None:
        """Return a row for the semantic map and one for each detection, None if there is no detection."""
        if not len(scene.detections):
            return None
        grid = []
        if self.semantic is not None:
            grid.append(semantic_row(self.semantic, calls["semantic"][-1], scene))
        if self.branch is not None:
            grid += self._mask_rows(scene, calls)
        longest = max(len(row) for row in grid)
        nothing = Closeup("", [], np.zeros((SIDE, SIDE, 3), np.uint8), full=True)
        return draw_closeups(scene.image_rgb, [row + [nothing] * (longest - len(row)) for row in grid])

    def _mask_rows(self, scene: Scene, calls: Mapping[str, list[Call]]) -> list[list[Closeup]]:
        masks = stage_masks(self.branch, calls, scene)
        means = masks.mean(dim=1, keepdim=True)
        names = [f"mask of stage {self.first_stage + k}" for k in range(masks.shape[1])] + ["mean"]
        return [
            [
                _mask_closeup(f"{label(scene, d)}: {name}", mask.numpy(), d, self.branch.threshold, scene)
                for name, mask in zip(names, of_detection, strict=True)
            ]
            for d, of_detection in enumerate(torch.cat([masks, means], dim=1))
        ]


def stage_masks(branch: MaskBranch, calls: Mapping[str, list[Call]], scene: Scene) -> Tensor:
    """Return the mask of each head for the best detections, on the CPU.

    A detection's RoI is the nearest one; equal RoIs have equal features, whatever their class. The calls are
    those of the branch's ``features`` as ``rois`` and of the ``deconv`` of head k as ``head<k>``.

    Returns:
        (n, heads, M, M), probabilities in the frame of the box.
    """
    shown = scene.detections[: scene.max_regions]
    context, rois = calls["rois"][-1].inputs
    boxes = in_image(rois.boxes, scene, context.box_convention)
    nearest = torch.cdist(shown.pred_boxes.tensor.float(), boxes, p=1).argmin(dim=1).to(rois.boxes.device)
    classes = shown.pred_classes.to(nearest.device)
    inputs = [calls[f"head{k}"][-1].inputs[0] for k in range(branch.num_heads)]
    logits = [head.predict(x[nearest], classes) for head, x in zip(branch.heads, inputs, strict=True)]
    return torch.stack(logits, dim=1).float().sigmoid().cpu()


def outlines(mask: np.ndarray, threshold: float, box: np.ndarray) -> list[np.ndarray]:
    """Return the outlines (n, 2), as (x, y), of where a mask (M, M) in a box (4,) reaches a threshold."""
    fine = cv2.resize(np.pad(mask, 1), None, fx=_FINER, fy=_FINER, interpolation=cv2.INTER_LINEAR)
    inside = (fine >= threshold).astype(np.uint8)
    contours, _ = cv2.findContours(inside, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cell = (box[2:] - box[:2]) / mask.shape[0]
    # The middle of a fine cell, in cells of the mask; the first one is padding.
    return [box[:2] + ((line[:, 0] + 0.5) / _FINER - 1) * cell for line in contours]


def semantic_row(semantic: FusedSemanticHead, call: Call, scene: Scene) -> list[Closeup]:
    """Return the image, its semantic classes, how sure they are, and their names or numbers."""
    probabilities = semantic.predictor(semantic.fuse(call.inputs[0]))[0].float().softmax(dim=0).cpu()
    # Cells beyond the image are padding.
    height, width = (-(-side // semantic.stride) for side in scene.network_size)
    probabilities = probabilities[:, :height, :width]
    classes = probabilities.argmax(dim=0).numpy()
    # In shares of what it is if all classes are alike.
    entropy = torch.special.entr(probabilities).sum(dim=0) / np.log(max(len(probabilities), 2))
    step = points_in_image(torch.full((2,), float(semantic.stride)), scene).numpy()
    colors = colors_of(classes, len(probabilities))
    boxes = [(_DETECTION, box) for box in scene.detections.pred_boxes.tensor.numpy()]
    heat = heat_map(entropy.numpy(), step / 2, step, scene.image_rgb)
    names = class_name_list(semantic, scene)
    return [
        Closeup("detections", boxes, full=True),
        Closeup("semantic classes", [], color_map(colors[classes], step, scene.image_rgb), full=True),
        Closeup(f"their entropy, up to {float(entropy.max()):.2f} of the most", [], heat, full=True),
        Closeup("commonest classes", [], legend(classes, colors, names), full=True),
    ]


def colors_of(classes: np.ndarray, num_classes: int) -> np.ndarray:
    """Return colors (K, 3) uint8 of which those of the commonest classes of a map (h, w) differ most."""
    ranks = np.argsort(_by_share(classes, num_classes)[0])
    return np.uint8([[round(255 * part) for part in class_color(int(rank))] for rank in ranks])


def class_name_list(semantic: FusedSemanticHead, scene: Scene) -> list[str]:
    """Return the names of the semantic classes if they are those of the objects, else none."""
    is_of_objects = semantic.has_background and len(scene.class_names) == semantic.num_labels - 1
    return [*scene.class_names, "background"] if is_of_objects else []


def legend(classes: np.ndarray, colors: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Return a square with color, name and share of cells of the commonest classes of a map (h, w).

    ``colors`` are (K, 3) uint8; a class beyond the names is shown by its number.
    """
    order, shares = _by_share(classes, len(colors))
    order = order[: np.count_nonzero(shares)]
    square = np.zeros((SIDE, SIDE, 3), np.uint8)
    strips = square[: SIDE // STRIP * STRIP].reshape(-1, STRIP, SIDE, 3)
    for strip, k in zip(strips, order[:_COMMONEST], strict=False):
        strip[4:-4, 6:36] = colors[k]
        write(strip, f"{shares[k]:.1%}", 48)
        write(strip, class_name(int(k), names), 116)
    if len(order) > _COMMONEST:
        write(strips[_COMMONEST], f"{shares[order[_COMMONEST:]].sum():.1%}", 48)
        write(strips[_COMMONEST], f"{len(order) - _COMMONEST} others", 116)
    return square


def _by_share(classes: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers (K,) of classes, the commonest of a map first, and their shares (K,) by number."""
    shares = np.bincount(classes.flatten(), minlength=num_classes) / classes.size
    return np.argsort(-shares, kind="stable"), shares


def _mask_closeup(heading: str, mask: np.ndarray, detection: int, threshold: float, scene: Scene) -> Closeup:
    box = scene.detections.pred_boxes.tensor[detection].numpy()
    cell = np.maximum((box[2:] - box[:2]) / mask.shape[0], 1e-3)
    # A cell more on each side: outside the box there is no mask.
    over = heat_map(np.pad(mask, 1), box[:2] - cell / 2, cell, scene.image_rgb, highest=1.0)
    lines = [(_OUTLINE, line) for line in outlines(mask, threshold, box)]
    return Closeup(heading, [(_DETECTION, box), *lines], over)
