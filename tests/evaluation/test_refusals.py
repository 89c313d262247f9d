"""What the evaluator refuses, and how it says so."""

import importlib.util

import numpy as np
import pytest

from htd.errors import UserError
from htd.evaluation import COCOEvaluator
from htd.evaluation.backends import choose_backend

from .random_sets import NOTHING, feed, register, run


def one_image(folder, **changes):
    content = {
        "images": [{"id": 4, "file_name": "4.jpg", "height": 300, "width": 300}],
        "annotations": [
            {"id": 1, "image_id": 4, "category_id": 3, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 0}
        ],
        "categories": [{"id": 3, "name": "cow"}],
    }
    return register(folder, content | changes)


@pytest.mark.parametrize(
    "image, box, score, label, message",
    [
        (5, [0, 0, 9, 9], 0.5, 0, r"image ids \[5\] that .* does not list"),
        (4, [0, 0, np.nan, 9], 0.5, 0, "image id 4 .* not finite .*box"),
        (4, [0, 0, np.inf, 9], 0.5, 0, "image id 4 .* not finite"),
        (4, [0, 0, 9, 9], np.nan, 0, "image id 4 .* not finite .score nan"),
        (4, [0, 0, 9, 9], 0.5, 1, "detection of class 1, but .* has 1 classes; set .*num_classes to 1"),
    ],
)
def test_faulty_predictions(folder, image, box, score, label, message):
    prediction = (np.array([box]), np.array([score]), np.array([label]), None)
    with pytest.raises(UserError, match=message):
        run(COCOEvaluator(one_image(folder)), {image: prediction})


def test_an_image_predicted_twice(folder):
    evaluator = COCOEvaluator(one_image(folder))
    evaluator.reset()
    for _ in range(2):
        feed(evaluator, {4: NOTHING})
    with pytest.raises(UserError, match=r"\[4\] were predicted more than once"):
        evaluator.evaluate()


def test_faulty_ground_truth(folder):
    entry = {"id": 8, "image_id": 4, "category_id": 3, "bbox": [0, 0, 9, 9]}
    with pytest.raises(UserError, match=r"1 annotation ids occur more than once .first: \[8\]"):
        COCOEvaluator(one_image(folder, annotations=[entry, entry]))
    image = {"id": "four", "file_name": "4.jpg", "height": 300, "width": 300}
    with pytest.raises(UserError, match=r"image ids \['four'\] are not whole numbers"):
        COCOEvaluator(one_image(folder, images=[image]))


def test_unknown_names():
    with pytest.raises(UserError, match="'not_there' is not known"):
        COCOEvaluator("not_there")
    with pytest.raises(
        UserError, match="'best' is unknown; take auto or one of hotcoco, detectron2, pycocotools"
    ):
        choose_backend("best")


def test_unoffered_tasks(folder):
    with pytest.raises(UserError, match=r"\['keypoints'\] are not offered; take bbox or segm"):
        COCOEvaluator(one_image(folder), tasks=["bbox", "keypoints"])
    with pytest.raises(UserError, match=r"\['box'\] are not offered"):
        COCOEvaluator(one_image(folder), tasks="box")


def test_masks_are_not_evaluated_against_boxes(folder, caplog):
    name = one_image(folder)
    masks = np.zeros((1, 300, 300), bool)
    masks[:, :9, :9] = True
    prediction = (np.array([[0, 0, 9, 9]]), np.array([0.5]), np.array([0]), masks)
    assert list(run(COCOEvaluator(name), {4: prediction})) == ["bbox"]
    assert f"{name}.json has no masks: segm is not evaluated" in caplog.text
    with pytest.raises(UserError, match="has no masks, so segm cannot be evaluated; leave it out of"):
        COCOEvaluator(name, tasks=["bbox", "segm"])


def test_one_task_needs_no_list(folder):
    evaluator = COCOEvaluator(one_image(folder), tasks="bbox")
    prediction = (np.array([[0, 0, 9, 9]]), np.array([0.5]), np.array([0]), None)
    assert list(run(evaluator, {4: prediction})) == ["bbox"]


def test_backends_that_are_not_installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert choose_backend("auto")[0].startswith("pycocotools ")
    with pytest.raises(UserError, match="'hotcoco' is not installed"):
        choose_backend("hotcoco")


def test_one_line_says_which_is_used(folder, caplog):
    caplog.set_level("INFO")
    COCOEvaluator(one_image(folder), backend="pycocotools")
    assert [line for line in caplog.messages if "uses" in line][0].startswith(
        "COCO evaluation uses pycocotools "
    )
