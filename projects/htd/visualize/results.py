"""Pictures from files: COCO ground truth beside a results file."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.structures import BitMasks, Boxes, Instances

from htd.errors import UserError
from htd.segmentation import rasterized, valid_segmentation
from htd.visualize.files import make_folder, write_picture
from htd.visualize.side_by_side import draw_side_by_side


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
        output_dir: pictures are written here, one PNG an image, under the name and the id of the image:
            p0/dog.jpg with id 7 becomes dog_7.png.
        count: the first so many images of the annotation file.
        score_threshold: detections with a lower score are not drawn.

    Returns:
        The files written.

    Raises:
        UserError: a file is missing or a picture cannot be written.
    """
    content, results = _load(json_file), _load(results_file)
    categories = sorted(content["categories"], key=lambda entry: entry["id"])
    classes = {entry["id"]: number for number, entry in enumerate(categories)}
    names = [entry["name"] for entry in categories]
    truth, found = _by_image(content["annotations"]), _by_image(results)
    folder, written = make_folder(output_dir), []
    for entry in content["images"][:count]:
        image = cv2.imread(str(Path(image_root) / entry["file_name"]), cv2.IMREAD_COLOR)
        if image is None:
            raise UserError(f"image {Path(image_root) / entry['file_name']} cannot be read")
        # The masks of the others would cost memory for nothing.
        kept = [result for result in found[entry["id"]] if result["score"] >= score_threshold]
        picture = draw_side_by_side(
            cv2.cvtColor(image, cv2.COLOR_BGR2RGB),
            _ground_truth(truth[entry["id"]], classes, image.shape[:2]),
            _predictions(kept, classes, image.shape[:2]),
            names,
            score_threshold,
        )
        # Images of several folders may share a name, but no id.
        path = folder / f"{Path(entry['file_name']).stem}_{entry['id']}.png"
        write_picture(path, picture)
        written.append(path)
    return written


def _load(path: str | Path):
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist; an evaluation writes the results file")
    return json.loads(Path(path).read_bytes())


def _by_image(entries: list[dict]) -> dict[int, list[dict]]:
    grouped = defaultdict(list)
    for entry in entries:
        grouped[entry["image_id"]].append(entry)
    return grouped


def _boxes(entries: list[dict]) -> Boxes:
    boxes = np.array([entry["bbox"] for entry in entries], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return Boxes(torch.from_numpy(boxes))


def _classes(entries: list[dict], classes: dict[int, int]) -> torch.Tensor:
    return torch.tensor([classes[entry["category_id"]] for entry in entries], dtype=torch.int64)


def _masks(entries: list[dict], size: tuple[int, int]) -> torch.Tensor | None:
    """Return masks (N, H, W) bool, empty for entries without a valid one; None if there is none at all."""
    valid = [valid_segmentation(entry.get("segmentation"), size) for entry in entries]
    if not any(valid):
        return None
    masks = torch.zeros((len(entries), *size), dtype=torch.bool)
    for mask, segmentation in zip(masks, valid, strict=True):
        if segmentation:
            mask.copy_(torch.from_numpy(mask_util.decode(rasterized(segmentation, size))))
    return masks


def _ground_truth(entries: list[dict], classes: dict[int, int], size: tuple[int, int]) -> Instances:
    objects = [entry for entry in entries if not entry.get("iscrowd", 0)]
    truth = Instances(size, gt_boxes=_boxes(objects), gt_classes=_classes(objects, classes))
    masks = _masks(objects, size)
    if masks is not None:
        truth.gt_masks = BitMasks(masks)
    return truth


def _predictions(entries: list[dict], classes: dict[int, int], size: tuple[int, int]) -> Instances:
    scores = torch.tensor([entry["score"] for entry in entries], dtype=torch.float32)
    found = Instances(size, pred_boxes=_boxes(entries), scores=scores)
    found.pred_classes = _classes(entries, classes)
    masks = _masks(entries, size)
    if masks is not None:
        found.pred_masks = masks
    return found
