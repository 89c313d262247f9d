"""Mask AP of a model's output: equal to pycocotools' with every implementation, and little is kept."""

import gc
import weakref

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.structures import Boxes, Instances

from htd.benchmark.measure import PeakMemory
from htd.evaluation import COCOEvaluator

from .random_sets import register
from .reference import INSTALLED, NUMBERS, by_pycocotools

CATEGORIES = (3, 8, 21)
TURN = np.linspace(0, 2 * np.pi, 24, endpoint=False)
# A side of each object: COCO's areas change at 32^2 and 96^2 pixels.
SIDES = (12, 30, 40, 90, 120, 170)


def outline(box):
    """Return the corners [x, y, x, y, ...] of an ellipse in a box."""
    center, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    return (center + half * np.stack([np.cos(TURN), np.sin(TURN)], axis=1)).reshape(-1).tolist()


def runs(mask):
    """Return the run lengths of a mask (H, W) along its columns, from background on, as crowds have them."""
    edges = np.flatnonzero(np.diff(mask.T.reshape(-1).astype(int), prepend=0)).tolist()
    return np.diff([0, *edges, mask.size]).tolist()


def rasterized(polygon, size):
    return mask_util.decode(mask_util.frPyObjects([polygon], *size))[:, :, 0].astype(bool)


def annotation(rng, number, image, box, size):
    """Return a polygon, an RLE or, for a crowd, uncompressed run lengths."""
    polygon = outline(box)
    mask = rasterized(polygon, size)
    kind = rng.choice(["polygon", "rle", "crowd"], p=[0.5, 0.3, 0.2])
    rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
    segmentation = {
        "polygon": [polygon],
        "rle": {"size": list(size), "counts": rle["counts"].decode()},
        "crowd": {"size": list(size), "counts": runs(mask)},
    }[kind]
    return {
        "id": number,
        "image_id": image,
        "category_id": int(rng.choice(CATEGORIES)),
        "bbox": [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()],
        "area": float(mask.sum()),
        "iscrowd": int(kind == "crowd"),
        "segmentation": segmentation,
    }


def random_boxes(rng, size, count):
    """Return boxes (count, 4) in an image."""
    sides = np.minimum(rng.choice(SIDES, (count, 2)) * rng.uniform(0.8, 1.2, (count, 2)), size[::-1])
    corner = rng.uniform(0, size[::-1] - sides)
    return np.concatenate([corner, corner + sides], axis=1)


def found_in(rng, truth, size):
    """Return a model's output: objects found not quite right, and some that are not there."""
    near = [
        (np.array([x, y, x + w, y + h]) + rng.normal(0, 0.05, 4) * [w, h, w, h], entry["category_id"])
        for entry in truth
        for x, y, w, h in [entry["bbox"]]
        for _ in range(rng.integers(0, 3))
    ]
    near += [(box, rng.choice(CATEGORIES)) for box in random_boxes(rng, np.array(size), 3)]
    instances = Instances(size)
    instances.pred_boxes = Boxes(torch.tensor(np.array([box for box, _ in near]), dtype=torch.float32))
    instances.scores = torch.tensor(np.round(rng.random(len(near)), 2), dtype=torch.float32)
    instances.pred_classes = torch.tensor([CATEGORIES.index(category) for _, category in near])
    masks = [rasterized(outline(box), size) for box, _ in near]
    instances.pred_masks = torch.tensor(np.array(masks))
    return instances


def random_outputs(seed, images=8):
    """Return ground truth, a model's output by image, and the same as pycocotools wants it."""
    rng = np.random.default_rng(seed)
    truth, outputs, detections, listed = [], {}, [], []
    for image in range(11, 11 + images):
        size = tuple(rng.integers(150, 260, 2).tolist())
        listed.append({"id": image, "file_name": f"{image}.jpg", "height": size[0], "width": size[1]})
        boxes = random_boxes(rng, np.array(size), rng.integers(0, 7))
        of_image = [annotation(rng, len(truth) + 1 + k, image, box, size) for k, box in enumerate(boxes)]
        truth += of_image
        outputs[image] = found_in(rng, of_image, size)
        if image % 4 == 0:
            outputs[image] = outputs[image][:0]
        for k in range(len(outputs[image])):
            one = outputs[image][k]
            rle = mask_util.encode(np.asfortranarray(one.pred_masks[0].numpy().astype(np.uint8)))
            label, score = CATEGORIES[int(one.pred_classes[0])], float(one.scores[0])
            detections.append({"image_id": image, "category_id": label, "score": score, "segmentation": rle})
    names = [{"id": category, "name": f"class {category}"} for category in CATEGORIES]
    return {"images": listed, "annotations": truth, "categories": names}, outputs, detections


@pytest.mark.parametrize("seed", range(8))
def test_equal_to_pycocotools(folder, seed):
    content, outputs, detections = random_outputs(seed)
    areas = np.array([entry["area"] for entry in content["annotations"]])
    crowds = sum(entry["iscrowd"] for entry in content["annotations"])
    assert crowds and np.histogram(areas, [0, 32**2, 96**2, np.inf])[0].all()
    name = register(folder, content)
    expected = by_pycocotools(name, detections, "segm")
    assert 5 < expected["AP"] < 95
    for backend in INSTALLED:
        evaluator = COCOEvaluator(name, backend=backend)
        evaluator.reset()
        for image, instances in outputs.items():
            evaluator.process([{"image_id": image}], [{"instances": instances}])
        found = evaluator.evaluate()["segm"]
        assert list(found)[:12] == NUMBERS and set(found) == set(expected)
        for key, value in expected.items():
            np.testing.assert_allclose(found[key], value, rtol=1e-12, atol=0, err_msg=f"{backend} {key}")


def many_masks():
    """Return 100 detections of an image of 800 x 1333 pixels."""
    instances = Instances((800, 1333))
    instances.pred_boxes = Boxes(torch.tensor([[0.0, 0.0, 600.0, 500.0]]).repeat(100, 1))
    instances.scores, instances.pred_classes = torch.rand(100), torch.zeros(100, dtype=torch.int64)
    instances.pred_masks = torch.zeros(100, 800, 1333, dtype=torch.bool)
    for k, mask in enumerate(instances.pred_masks):
        mask[k : 500 - k, 2 * k : 600 - k] = True
    return instances


def plain(value):
    """Tell whether a value is made of numbers and texts alone."""
    if isinstance(value, dict | list):
        return all(map(plain, value.values() if isinstance(value, dict) else value))
    return isinstance(value, int | float | str)


def test_masks_are_encoded_at_once(folder):
    content, _, _ = random_outputs(0, images=1)
    evaluator = COCOEvaluator(register(folder, content))
    evaluator.reset()
    output = many_masks()
    masks = weakref.ref(output.pred_masks)
    peak = PeakMemory(torch.device("cpu"))
    evaluator.process([{"image_id": 11}], [{"instances": output}])
    # The masks are 107 MB.
    assert not peak.bytes() > 30e6
    del output
    gc.collect()
    assert masks() is None
    assert plain(evaluator._predictions) and len(evaluator._predictions[0]["instances"]) == 100
