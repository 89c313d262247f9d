"""Pictures of model inputs with their predictions, for the training log."""

from __future__ import annotations

import numpy as np
from detectron2.structures import Instances

from htd.visualize.names import registered_names
from htd.visualize.side_by_side import NO_CLASS, draw_side_by_side


def draw_input(
    inputs: dict,
    predictions: Instances | None,
    *,
    dataset_name: str,
    image_format: str = "RGB",
    score_threshold: float = 0.3,
) -> np.ndarray:
    """Draw one model input: its objects, its semantic map, and its predictions, from left to right.

    Args:
        inputs: ``image`` (3, H, W), in 0..255, and maybe ``instances`` with ground truth and ``sem_seg``
            (H, W), as a mapper makes them. Of a map that was drawn from masks, of ``sem_seg_drawn_classes``
            classes, the background is not colored.
        predictions: detections in the frame of ``image``.
        dataset_name: data set in Detectron2's catalogs that names the classes.
        image_format: channel order of ``image``, ``"RGB"`` or ``"BGR"``.
        score_threshold: predictions with a lower score are not drawn.

    Returns:
        (H', W', 3) uint8, RGB.
    """
    image = inputs["image"].cpu().numpy().transpose(1, 2, 0).clip(0, 255).astype(np.uint8)
    image = np.ascontiguousarray(image[..., ::-1] if image_format == "BGR" else image)
    names = registered_names(dataset_name)
    semantic_map = _semantic_map(inputs) if "sem_seg" in inputs else None
    return draw_side_by_side(
        image, inputs.get("instances"), predictions, names, score_threshold, semantic_map
    )


def _semantic_map(inputs: dict) -> np.ndarray:
    values = inputs["sem_seg"].cpu().numpy()
    # Drawn maps have the background behind the classes of the objects.
    return np.where(values == inputs.get("sem_seg_drawn_classes", NO_CLASS), NO_CLASS, values)
