"""Random COCO ground truth and detections (crowd regions, ties, gaps in ids, empty images), and their use."""

import itertools
import json

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances

NOTHING = (np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), None)
_NAMES = (f"random_{number}" for number in itertools.count())


def random_set(seed, images=12, classes=4, max_objects=8, max_detections=12, masks=True):
    """Return (ground truth content, predictions by image id).

    Predictions are (boxes (n, 4) XYXY, scores (n,), classes (n,), masks (n, H, W)). Some images have no
    objects, some no predictions; scores are rounded, so that many are tied.
    """
    rng = np.random.default_rng(seed)
    categories = sorted(rng.choice(np.arange(1, 50), classes, replace=False).tolist())
    ids = sorted(rng.choice(np.arange(1, 1000), images, replace=False).tolist())
    truth, predictions = [], {}
    for image in ids:
        size = rng.integers(60, 300, 2)
        boxes, labels = _boxes(rng, size, int(rng.integers(0, max_objects + 1))), []
        for box in boxes:
            labels.append(int(rng.integers(classes)))
            truth.append(_annotation(rng, len(truth) + 1, image, categories[labels[-1]], box, size))
        found = [_jitter(rng, box, size) for box in boxes if rng.random() < 0.8]
        found += list(_boxes(rng, size, int(rng.integers(0, max_detections))))
        kinds = [k if rng.random() < 0.8 else int(rng.integers(classes)) for k in labels[: len(found)]]
        kinds += rng.integers(0, classes, len(found) - len(kinds)).tolist()
        scores = np.round(rng.random(len(found)), 1)
        stacked = np.reshape(found, (-1, 4))
        predictions[image] = (
            stacked,
            scores,
            np.array(kinds, int),
            _ellipses(stacked, size) if masks else None,
        )
    content = {
        "images": [{"id": image, "file_name": f"{image}.jpg", "height": 300, "width": 300} for image in ids],
        "annotations": truth,
        "categories": [{"id": category, "name": f"class {category}"} for category in categories],
    }
    return content, predictions


def instances(prediction):
    """Return a prediction of ``random_set`` as a model would."""
    boxes, scores, classes, masks = prediction
    found = Instances((300, 300))
    found.pred_boxes = Boxes(torch.as_tensor(boxes, dtype=torch.float64))
    found.scores, found.pred_classes = torch.as_tensor(scores), torch.as_tensor(classes)
    if masks is not None:
        found.pred_masks = torch.as_tensor(masks)
    return found


def register(folder, content):
    """Write ground truth and return the name of a new data set for it."""
    name = next(_NAMES)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content))
    ids = sorted(entry["id"] for entry in content["categories"])
    names = {entry["id"]: entry["name"] for entry in content["categories"]}
    MetadataCatalog.get(name).set(
        json_file=str(path),
        thing_classes=[names[key] for key in ids],
        thing_dataset_id_to_contiguous_id={key: number for number, key in enumerate(ids)},
    )
    return name


def run(evaluator, predictions):
    """Return the results of a fresh evaluation."""
    evaluator.reset()
    feed(evaluator, predictions)
    return evaluator.evaluate()


def feed(evaluator, predictions):
    """Hand over the predictions of all images."""
    for image, prediction in predictions.items():
        evaluator.process([{"image_id": image}], [{"instances": instances(prediction)}])


def _boxes(rng, size, count):
    height, width = size
    corner = rng.uniform(0, [width - 20, height - 20], (count, 2))
    sides = np.minimum(np.exp(rng.uniform(np.log(4), np.log(200), (count, 2))), [width, height] - corner)
    return np.concatenate([corner, corner + sides], axis=1)


def _jitter(rng, box, size):
    moved = box + rng.normal(0, 0.06, 4) * np.tile(box[2:] - box[:2], 2)
    moved = np.clip(moved, 0, [size[1], size[0]] * 2)
    return np.concatenate([np.minimum(moved[:2], moved[2:] - 1), moved[2:]])


def _ellipses(boxes, size):
    """Return masks (n, 300, 300) of the ellipses in the boxes."""
    rows, columns = np.mgrid[0:300, 0:300] + 0.5
    masks = np.zeros((len(boxes), 300, 300), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        across, down = (columns - (x1 + x2) / 2) / (x2 - x1), (rows - (y1 + y2) / 2) / (y2 - y1)
        mask |= across**2 + down**2 < 0.25
    return masks


def _annotation(rng, number, image, category, box, size):
    rle = mask_util.encode(np.asfortranarray(_ellipses(box[None], size)[0]))
    crowd = int(rng.random() < 0.15)
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": [float(v) for v in (*box[:2], *(box[2:] - box[:2]))],
        "area": float(mask_util.area(rle)),
        "iscrowd": crowd,
        "segmentation": {"size": [300, 300], "counts": rle["counts"].decode()},
    }
