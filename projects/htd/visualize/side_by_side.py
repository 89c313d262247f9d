"""Ground truth beside predictions on one image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.structures import BitMasks, Instances, PolygonMasks

from htd.segmentation import rasterized
from htd.visualize.canvas import beside, class_color, class_name, finish, open_canvas

NO_CLASS = 255


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
    return beside(parts) if parts else image_rgb.copy()


def _fields(instances: Instances, boxes: str, classes: str, masks: str):
    cpu = instances.to(torch.device("cpu"))
    found_masks = _bitmaps(cpu.get(masks), cpu.image_size) if cpu.has(masks) else ()
    return cpu.get(boxes).tensor.detach().float().numpy(), cpu.get(classes).tolist(), found_masks


def _bitmaps(masks: BitMasks | PolygonMasks | torch.Tensor, size: tuple[int, int]) -> Sequence[np.ndarray]:
    """Return a mask (H, W), 0 or 1, of each object."""
    if isinstance(masks, PolygonMasks):
        empty = np.zeros(size, np.uint8)
        return [mask_util.decode(rasterized(parts, size)) if parts else empty for parts in masks.polygons]
    return (masks.tensor if isinstance(masks, BitMasks) else masks).numpy()


def _overlaid(image: np.ndarray, semantic_map: np.ndarray) -> np.ndarray:
    """Return the image mixed in equal parts with the colors of the classes of a map (H, W)."""
    colors = np.array([class_color(number) for number in range(NO_CLASS + 1)]) * 255
    mixed = ((image + colors[semantic_map]) / 2).astype(np.uint8)
    return np.where((semantic_map == NO_CLASS)[..., None], image, mixed)


def _part(image: np.ndarray, heading: str, fields, names: Sequence[str], scores=None) -> np.ndarray:
    boxes, classes, masks = fields
    labels = [class_name(k, names) for k in classes]
    if scores is not None:
        labels = [f"{label} {score:.2f}" for label, score in zip(labels, scores, strict=True)]
    canvas = open_canvas(image)
    colors = [class_color(k) for k in classes]
    # Not by overlay_instances, which fills the holes of masks.
    for mask, color in zip(masks, colors, strict=False):
        canvas.draw_binary_mask(mask, color, area_threshold=0)
    canvas.overlay_instances(boxes=boxes, labels=labels, assigned_colors=colors)
    return finish(canvas, heading)
