"""Ground truth beside predictions: of an image, of a model's input, and of an evaluation's results file.

H x W are the pixels of the image, which boxes and masks refer to. Pictures are (H', W', 3) uint8, RGB; small
images are enlarged so that labels can be read.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks

from htd.errors import UserError
from htd.segmentation import rasterized, valid_segmentation
from htd.visualize.canvas import beside, class_color, class_name, finish, open_canvas, registered_names
from htd.visualize.files import make_folder, write_picture

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

    Uses no random generator, so that pictures made during training do not change it. A part that is None is
    left out.

    Args:
        image_rgb: (H, W, 3) uint8.
        ground_truth: ``gt_boxes``, ``gt_classes`` and maybe ``gt_masks``.
        predictions: ``pred_boxes``, ``scores``, ``pred_classes`` and maybe ``pred_masks``.
        class_names: names by class; a class beyond them is shown by its number.
        score_threshold: predictions with a lower score are not drawn.
        semantic_map: (H, W) class of each pixel, laid over the image; 255, no class, shows the image.
    """
    parts = []
    if ground_truth is not None:
        heading = f"ground truth: {len(ground_truth)}"
        fields = _fields(ground_truth, "gt_boxes", "gt_classes", "gt_masks")
        parts.append(_part(image_rgb, heading, fields, class_names))
    if semantic_map is not None:
        present = np.unique(semantic_map)
        heading = f"semantic map: {len(present[present != NO_CLASS])} classes"
        colors = np.array([class_color(number) for number in range(NO_CLASS + 1)]) * 255
        mixed = ((image_rgb + colors[semantic_map]) / 2).astype(np.uint8)
        mixed = np.where((semantic_map == NO_CLASS)[..., None], image_rgb, mixed)
        parts.append(_part(mixed, heading, ([], [], ()), class_names))
    if predictions is not None:
        kept = predictions[predictions.scores >= score_threshold]
        heading = f"predictions: {len(kept)} with score >= {score_threshold:g}"
        fields = _fields(kept, "pred_boxes", "pred_classes", "pred_masks")
        parts.append(_part(image_rgb, heading, fields, class_names, kept.scores.tolist()))
    return beside(parts) if parts else image_rgb.copy()


def _fields(instances: Instances, boxes: str, classes: str, masks: str):
    """Return boxes (n, 4), classes, and masks (H, W) of 0 and 1 if there are any."""
    cpu, bitmaps = instances.to(torch.device("cpu")), ()
    if cpu.has(masks):
        bitmaps = cpu.get(masks)
        if isinstance(bitmaps, PolygonMasks):
            empty = np.zeros(cpu.image_size, np.uint8)
            bitmaps = [
                mask_util.decode(rasterized(parts, cpu.image_size)) if parts else empty
                for parts in bitmaps.polygons
            ]
        else:
            bitmaps = (bitmaps.tensor if isinstance(bitmaps, BitMasks) else bitmaps).numpy()
    return cpu.get(boxes).tensor.detach().float().numpy(), cpu.get(classes).tolist(), bitmaps


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
    """
    image = inputs["image"].cpu().numpy().transpose(1, 2, 0).clip(0, 255).astype(np.uint8)
    image = np.ascontiguousarray(image[..., ::-1] if image_format == "BGR" else image)
    semantic_map = None
    if "sem_seg" in inputs:
        semantic_map = inputs["sem_seg"].cpu().numpy()
        # In drawn maps the class after those of the objects is the background.
        background = semantic_map == inputs.get("sem_seg_drawn_classes", NO_CLASS)
        semantic_map = np.where(background, NO_CLASS, semantic_map)
    return draw_side_by_side(
        image,
        inputs.get("instances"),
        predictions,
        registered_names(dataset_name),
        score_threshold,
        semantic_map,
    )


def draw_results(
    json_file: str | Path,
    image_root: str | Path,
    results_file: str | Path,
    output_dir: str | Path,
    *,
    count: int = 12,
    score_threshold: float = 0.5,
) -> list[Path]:
    """Draw ground truth beside the detections of a results file, with the masks that they have.

    An object without a valid mask is drawn with its box alone.

    Args:
        json_file: COCO annotations.
        image_root: folder of their images.
        results_file: detections in COCO's result format, as the evaluator keeps them.
        output_dir: folder of the pictures, one PNG per image, named after the image and its id:
            p0/dog.jpg with id 7 becomes dog_7.png.
        count: the first so many images of the annotation file.
        score_threshold: detections with a lower score are not drawn.

    Returns:
        The files written.
    """
    for path in map(Path, (json_file, results_file)):
        if not path.is_file():
            raise UserError(f"{path} does not exist; an evaluation writes the results file")
    content, results = (json.loads(Path(path).read_bytes()) for path in (json_file, results_file))
    categories = sorted(content["categories"], key=lambda entry: entry["id"])
    classes = {entry["id"]: number for number, entry in enumerate(categories)}
    names = [entry["name"] for entry in categories]
    truth, detections = _by_image(content["annotations"]), _by_image(results)
    folder, written = make_folder(output_dir), []
    for entry in content["images"][:count]:
        image = cv2.imread(str(Path(image_root) / entry["file_name"]), cv2.IMREAD_COLOR)
        if image is None:
            raise UserError(f"image {Path(image_root) / entry['file_name']} cannot be read")
        objects = [item for item in truth[entry["id"]] if not item.get("iscrowd", 0)]
        # Before masks are decoded: those of the others would cost memory for nothing.
        kept = [result for result in detections[entry["id"]] if result["score"] >= score_threshold]
        scores = {"scores": torch.tensor([result["score"] for result in kept], dtype=torch.float32)}
        picture = draw_side_by_side(
            cv2.cvtColor(image, cv2.COLOR_BGR2RGB),
            _instances("gt", objects, classes, image.shape[:2]),
            _instances("pred", kept, classes, image.shape[:2], **scores),
            names,
            score_threshold,
        )
        # Images of several folders may share a name, but no id.
        path = folder / f"{Path(entry['file_name']).stem}_{entry['id']}.png"
        write_picture(path, picture)
        written.append(path)
    return written


def _by_image(entries: list[dict]) -> dict[int, list[dict]]:
    grouped = defaultdict(list)
    for entry in entries:
        grouped[entry["image_id"]].append(entry)
    return grouped


def _instances(
    kind: str, entries: list[dict], classes: dict[int, int], size: tuple[int, int], **fields
) -> Instances:
    """Return COCO annotations or results with fields ``<kind>_boxes``, ``_classes`` and maybe ``_masks``."""
    boxes = np.array([entry["bbox"] for entry in entries], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    instances = Instances(size, **fields)
    instances.set(f"{kind}_boxes", Boxes(torch.from_numpy(boxes)))
    numbers = [classes[entry["category_id"]] for entry in entries]
    instances.set(f"{kind}_classes", torch.tensor(numbers, dtype=torch.int64))
    valid = [valid_segmentation(entry.get("segmentation"), size) for entry in entries]
    if any(valid):
        bitmaps = torch.zeros((len(entries), *size), dtype=torch.bool)
        for bitmap, segmentation in zip(bitmaps, valid, strict=True):
            if segmentation:
                bitmap.copy_(torch.from_numpy(mask_util.decode(rasterized(segmentation, size))))
        instances.set(f"{kind}_masks", bitmaps)
    return instances
