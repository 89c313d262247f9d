"""Mask AP where some objects have no valid mask, and of a model that finds nothing."""

import copy
import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.utils import comm

from htd.errors import UserError
from htd.evaluation import COCOEvaluator

from .random_sets import random_set, register, run
from .reference import INSTALLED, by_pycocotools

MISSING = object()
INVALID = {
    "no key": MISSING,
    "null": None,
    "nothing": [],
    "two points": [[10, 10, 60, 60]],
    "three coordinates": [[10, 10, 60]],
    "text": "mask",
    "numbers": [10, 10, 60, 10, 60, 60],
    "texts": [["10", "10", "60", "10", "60", "60"]],
    "not finite": [[10, 10, 60, 10, float("inf"), 60]],
    "empty RLE": {},
    "RLE of another size": {"size": [30, 30], "counts": [100, 800]},
    "RLE, height and width exchanged": {"size": [300, 299], "counts": [0, 89700]},
    "runs too short": {"size": [300, 300], "counts": [100, 800]},
    "runs too long": {"size": [300, 300], "counts": [0, 10**9]},
    "negative run": {"size": [300, 300], "counts": [100, -100, 90000]},
    "text too short": {"size": [300, 300], "counts": "Xl4"},
}
EMPTY = (np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), np.zeros((0, 300, 300), bool))


def with_invalid(content, kinds=None):
    """Return ground truth in which every fourth object has one of those segmentations."""
    changed, kinds = copy.deepcopy(content), kinds or [*INVALID.values()]
    for k, entry in enumerate(changed["annotations"][::4]):
        del entry["segmentation"]
        if kinds[k % len(kinds)] is not MISSING:
            entry["segmentation"] = copy.deepcopy(kinds[k % len(kinds)])
    return changed


def assert_equal(found, expected):
    """Compare all numbers of all tasks."""
    assert list(found) == list(expected)
    for task, values in expected.items():
        assert found[task] == pytest.approx(values, rel=0, abs=1e-9, nan_ok=True), task


def detections_of(folder, name, predictions):
    output = folder / name
    run(COCOEvaluator(name, output_dir=str(output)), predictions)
    return json.loads((output / "coco_instances_results.json").read_text())


@pytest.fixture(scope="module")
def valid(folder):
    """Ground truth, predictions, and what pycocotools says: bbox of all, segm without every fourth object."""
    content, predictions = random_set(21)
    name = register(folder, content)
    detections = detections_of(folder, name, predictions)
    left = copy.deepcopy(content)
    del left["annotations"][::4]
    expected = {
        "bbox": by_pycocotools(name, detections, "bbox"),
        "segm": by_pycocotools(register(folder, left), detections, "segm"),
    }
    assert abs(expected["segm"]["AP"] - by_pycocotools(name, detections, "segm")["AP"]) > 1
    return content, predictions, expected


@pytest.mark.parametrize("backend", INSTALLED)
def test_segm_is_evaluated_without_objects_that_have_no_valid_mask(folder, valid, backend, caplog):
    content, predictions, expected = valid
    count = len(content["annotations"][::4])
    assert count >= len(INVALID) - 4
    for start in (0, 4):
        kinds = [*INVALID.values()][start:]
        evaluator = COCOEvaluator(register(folder, with_invalid(content, kinds=kinds)), backend=backend)
        for _ in range(2):
            found = run(evaluator, predictions)
            assert set(found["segm"]) == set(expected["segm"])
            assert_equal(found, expected)
    assert [f"{count} objects" in text for text in caplog.messages if "valid mask" in text] == [True] * 2


@pytest.mark.parametrize("backend", INSTALLED)
def test_masks_in_other_words_count_alike(folder, valid, backend, caplog):
    """Uncompressed runs, sizes with a point, and points that are no polygon beside one that is."""
    content, predictions, _ = valid
    plain, other = copy.deepcopy(content), copy.deepcopy(content)
    for image in other["images"]:
        image["height"], image["width"] = 300.0, 300.5
    for k, (entry, changed) in enumerate(zip(plain["annotations"], other["annotations"], strict=True)):
        mask = mask_util.decode(entry["segmentation"])
        edges = np.flatnonzero(np.diff(mask.T.reshape(-1).astype(int), prepend=0))
        x, y, w, h = entry["bbox"]
        box = [x, y, x + w, y, x + w, y + h, x, y + h]
        if k % 3 == 0:
            changed["segmentation"] = {"size": [300.0, 300.0], "counts": np.diff([0, *edges, 90000]).tolist()}
        elif k % 3 == 1:
            changed["segmentation"]["size"] = [300.0, 300.0]
        else:
            entry["segmentation"], changed["segmentation"] = [box], [box[:4], box, None]
    expected = run(COCOEvaluator(register(folder, plain), backend="pycocotools"), predictions)
    found = run(COCOEvaluator(register(folder, other), backend=backend), predictions)
    assert list(found) == ["bbox", "segm"]
    assert_equal(found, expected)
    assert "valid mask" not in caplog.text


@pytest.mark.parametrize("backend", INSTALLED)
def test_boxes_are_evaluated_whatever_the_masks_are(folder, valid, backend, caplog):
    content, predictions, expected = valid
    broken = copy.deepcopy(content)
    for k, entry in enumerate(broken["annotations"]):
        entry["segmentation"] = [*INVALID.values()][1:][k % (len(INVALID) - 1)]
    name = register(folder, broken)
    found = run(COCOEvaluator(name, backend=backend), predictions)
    assert_equal(found, {"bbox": expected["bbox"]})
    assert f"{name}.json has no masks: segm is not evaluated" in caplog.text
    with pytest.raises(UserError, match="has no masks"):
        COCOEvaluator(name, tasks="segm")


@pytest.mark.parametrize("changes", [{}, {"height": None, "width": 300}, {"height": 1e999, "width": 300}])
def test_masks_of_images_without_a_size_are_not_valid(folder, valid, changes):
    content, predictions, expected = valid
    broken = copy.deepcopy(content)
    for image in broken["images"]:
        del image["height"], image["width"]
        image.update(changes)
    for backend in INSTALLED:
        found = run(COCOEvaluator(register(folder, broken), backend=backend), predictions)
        assert_equal(found, {"bbox": expected["bbox"]})


@pytest.mark.parametrize("backend", INSTALLED)
def test_a_mask_model_that_finds_nothing_has_both_tasks(folder, valid, backend):
    content, predictions, expected = valid
    evaluator = COCOEvaluator(register(folder, with_invalid(content)), backend=backend)
    found = run(evaluator, {image: EMPTY for image in predictions})
    # NaN where there is no object.
    zero = {task: {key: value * 0 for key, value in values.items()} for task, values in expected.items()}
    assert_equal(found, zero)
    assert found["bbox"]["AP"] == found["segm"]["AP"] == 0


def test_boxes_alone_have_no_segm(folder, valid, caplog):
    content, predictions, _ = valid
    boxes = {image: (*prediction[:3], None) for image, prediction in predictions.items()}
    evaluator = COCOEvaluator(register(folder, with_invalid(content)))
    assert list(run(evaluator, boxes)) == ["bbox"]
    assert list(run(evaluator, {image: (*EMPTY[:3], None) for image in predictions})) == ["bbox"]
    assert "valid mask" not in caplog.text
    for backend in INSTALLED:
        asked = COCOEvaluator(register(folder, content), tasks=["bbox", "segm"], backend=backend)
        with pytest.raises(UserError, match="predicts no masks"):
            run(asked, boxes)


def test_ranks_agree_on_segm(folder, valid, monkeypatch):
    """The main process has no images, or none with detections; another rank has those with masks."""
    content, predictions, _ = valid
    evaluator = COCOEvaluator(register(folder, content))
    expected = run(evaluator, predictions)
    monkeypatch.setattr(comm, "gather", lambda data, dst: [[], data])
    np.testing.assert_equal(run(evaluator, predictions), expected)
    assert list(expected) == ["bbox", "segm"]
    nothing = run(evaluator, {image: EMPTY for image in predictions})
    assert nothing["bbox"]["AP"] == nothing["segm"]["AP"] == 0
