"""Ground truth beside predictions on one image."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.structures import BitMasks, Instances, PolygonMasks
from detectron2.utils.visualizer import VisImage, Visualizer

from htd.segmentation import rasterised

_MIN_SIDE, _HEADING, _GAP = 480, 24, 4
_WHITE, NO_CLASS = (255, 255, 255), 255


def draw_side_by_side(
    image_rgb: np.ndarray,
    ground_truth: Instances | None,
    predictions: Instances | None,
    class_names: Sequence[str],
    score_threshold: float = 0.5,
    semantic_map: np.ndarray | None = None,
) -> np.ndarray:
    """Draw ground truth at the left, then the semantic map, and predictions at the right.

    Draws nothing from the random generators, so that pictures made during training leave it as it was.

    Args:
        image_rgb: (H, W, 3) uint8, RGB.
        ground_truth: ``gt_boxes``, ``gt_classes`` and maybe ``gt_masks`` in the frame of the image; None
            leaves this part out.
        predictions: ``pred_boxes``, ``scores``, ``pred_classes`` and maybe ``pred_masks`` in the same
            frame; None leaves this part out.
        class_names: names by class; a class beyond them is shown by its number.
        score_threshold: predictions with a lower score are not drawn.
        semantic_map: (H, W) class of each pixel, laid over the image; 255, no class, shows the image. None
            leaves this part out.

    Returns:
        (H', W', 3) uint8, RGB; small images are enlarged so that labels can be read.
    """
    parts = []
    if ground_truth is not None:
        heading = f"ground truth: {len(ground_truth)}"
        fields = _fields(ground_truth, "gt_boxes", "gt_classes", "gt_masks")
        parts.append(_part(image_rgb, heading, fields, class_names))
    if semantic_map is not None:
        present = np.unique(semantic_map)
        heading = f"semantic map: {len(present[present != NO_CLASS])} classes"
        parts.append(_part(_overlaid(image_rgb, semantic_map), heading, ([], [], ()), class_names))
    if predictions is not None:
        kept = predictions[predictions.scores >= score_threshold]
        heading = f"predictions: {len(kept)} with score >= {score_threshold:g}"
        fields = _fields(kept, "pred_boxes", "pred_classes", "pred_masks")
        parts.append(_part(image_rgb, heading, fields, class_names, kept.scores.tolist()))
    if not parts:
        return image_rgb.copy()
    gap = np.full((parts[0].shape[0], _GAP, 3), 255, np.uint8)
    return np.concatenate([piece for part in parts for piece in (part, gap)][:-1], axis=1)


def _fields(instances: Instances, boxes: str, classes: str, masks: str):
    cpu = instances.to(torch.device("cpu"))
    found_masks = _bitmaps(cpu.get(masks), cpu.image_size) if cpu.has(masks) else ()
    return cpu.get(boxes).tensor.detach().float().numpy(), cpu.get(classes).tolist(), found_masks


def _bitmaps(masks: BitMasks | PolygonMasks | torch.Tensor, size: tuple[int, int]) -> Sequence[np.ndarray]:
    """Return a mask (H, W), 0 or 1, of each object."""
    if isinstance(masks, PolygonMasks):
        empty = np.zeros(size, np.uint8)
        return [mask_util.decode(rasterised(parts, size)) if parts else empty for parts in masks.polygons]
    return (masks.tensor if isinstance(masks, BitMasks) else masks).numpy()


def _overlaid(image: np.ndarray, semantic_map: np.ndarray) -> np.ndarray:
    """Return the image mixed in equal parts with the colours of the classes of a map (H, W)."""
    colours = np.array([_colour(number) for number in range(NO_CLASS + 1)]) * 255
    mixed = ((image + colours[semantic_map]) / 2).astype(np.uint8)
    return np.where((semantic_map == NO_CLASS)[..., None], image, mixed)


def _part(image: np.ndarray, heading: str, fields, names: Sequence[str], scores=None) -> np.ndarray:
    boxes, classes, masks = fields
    labels = [names[k] if k < len(names) else str(k) for k in classes]
    if scores is not None:
        labels = [f"{label} {score:.2f}" for label, score in zip(labels, scores, strict=True)]
    canvas = Visualizer(image, scale=max(1.0, _MIN_SIDE / max(image.shape[:2])))
    colours = [_colour(k) for k in classes]
    # Not by overlay_instances, which fills the holes of masks.
    for mask, colour in zip(masks, colours, strict=False):
        canvas.draw_binary_mask(mask, colour, area_threshold=0)
    canvas.overlay_instances(boxes=boxes, labels=labels, assigned_colors=colours)
    _keep_inside(canvas.output)
    drawn = canvas.output.get_image()
    band = np.zeros((_HEADING, drawn.shape[1], 3), np.uint8)
    cv2.putText(band, heading, (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, _WHITE, 1, cv2.LINE_AA)
    return np.concatenate([band, drawn], axis=0)


def _keep_inside(drawing: VisImage) -> None:
    """Move labels that the right or the lower edge would cut to where they can be read."""
    renderer = drawing.canvas.get_renderer()
    for label in drawing.ax.texts:
        # In pixels of the enlarged image from its lower left corner; positions are in those of the image
        # from its upper left one.
        label.update_bbox_position_size(renderer)
        extent = label.get_bbox_patch().get_window_extent(renderer)
        beyond = max(0.0, extent.x1 - drawing.width * drawing.scale) / drawing.scale
        below = max(0.0, -extent.y0) / drawing.scale
        x, y = label.get_position()
        label.set_position((max(0.0, x - beyond), max(0.0, y - below)))


def _colour(number: int) -> tuple[float, float, float]:
    """Return a bright colour of its own for each class, RGB in 0..1."""
    # Steps of the golden ratio keep the hues of neighbouring classes far apart.
    return colorsys.hsv_to_rgb((0.1 + 0.618034 * number) % 1, 0.75, 1.0)
