"""The evaluator: equal to pycocotools on random sets, right at the edges, strict about its input."""

import copy
import gc
import importlib.util
import json
import weakref

import numpy as np
import pytest
import torch
from detectron2.evaluation import COCOEvaluator as Detectron2COCOEvaluator
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from htd.benchmark.measure import PeakMemory
from htd.errors import UserError
from htd.evaluation import COCOEvaluator
from htd.evaluation.backends import choose_backend

from .random_sets import NOTHING, feed, random_set, register, run
from .reference import INSTALLED, NUMBERS, by_pycocotools


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    images=st.integers(1, 14),
    classes=st.integers(2, 5),
    max_detections=st.sampled_from([3, 12, 130]),
)
def test_equal_to_pycocotools(folder, seed, images, classes, max_detections):
    content, predictions = random_set(seed, images, classes, max_detections=max_detections)
    name = register(folder, content)
    output = folder / name
    found = run(COCOEvaluator(name, output_dir=str(output)), predictions)
    detections = json.loads((output / "coco_instances_results.json").read_text())
    assert len(detections) == sum(len(prediction[1]) for prediction in predictions.values())
    assume(detections)
    assert list(found) == ["bbox", "segm"]
    for task in found:
        expected = by_pycocotools(name, detections, task)
        assert list(found[task])[:12] == NUMBERS and set(found[task]) == set(expected)
        for key, value in expected.items():
            np.testing.assert_allclose(found[task][key], value, rtol=0, atol=1e-9, err_msg=f"{task} {key}")


@pytest.mark.parametrize("backend", INSTALLED)
def test_equal_to_detectron2(folder, backend):
    content, predictions = random_set(5)
    name = register(folder, content)
    found = run(COCOEvaluator(name, backend=backend, distributed=False), predictions)
    expected = run(Detectron2COCOEvaluator(name, distributed=False, use_fast_impl=False), predictions)
    for task, values in expected.items():
        for key, value in values.items():
            np.testing.assert_allclose(found[task][key], value, atol=1e-9, err_msg=f"{task} {key}")


def test_a_subset_of_images(folder):
    content, predictions = random_set(6, masks=False)
    ids = [entry["id"] for entry in content["images"]][:5]
    evaluator = COCOEvaluator(register(folder, content))
    evaluator.reset()
    feed(evaluator, predictions)
    part = evaluator.evaluate(img_ids=ids)["bbox"]
    content["images"] = content["images"][:5]
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] in ids]
    alone = COCOEvaluator(register(folder, content), backend="pycocotools")
    assert part == pytest.approx(run(alone, {key: predictions[key] for key in ids})["bbox"], nan_ok=True)


def test_evaluating_twice_gives_the_same(folder):
    content, predictions = random_set(7, masks=False)
    evaluator = COCOEvaluator(register(folder, content))
    first = run(evaluator, predictions)
    np.testing.assert_equal(evaluator.evaluate(), first)
    np.testing.assert_equal(run(evaluator, predictions), first)


@pytest.mark.parametrize("backend", INSTALLED)
def test_no_detections_is_zero_and_no_ground_truth_is_nan(folder, backend, caplog):
    content, predictions = random_set(8, masks=False)
    evaluator = COCOEvaluator(register(folder, content), backend=backend)
    found = run(evaluator, {image: NOTHING for image in predictions})["bbox"]
    assert [found[key] for key in ("AP", "AP50", "AR100")] == [0, 0, 0]
    assert "no detections at all" in caplog.text
    empty = COCOEvaluator(register(folder, content | {"annotations": []}), backend=backend)
    assert np.isnan(list(run(empty, predictions)["bbox"].values())).all()


def test_ranks_without_images(folder, monkeypatch):
    content, predictions = random_set(9, masks=False)
    evaluator = COCOEvaluator(register(folder, content))
    expected = run(evaluator, predictions)
    monkeypatch.setattr(comm, "gather", lambda data, dst: [[], data, []])
    np.testing.assert_equal(evaluator.evaluate(), expected)
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    evaluator.reset()
    assert evaluator.evaluate() == {}


def test_sparse_ground_truth_counts_as_if_it_were_complete(folder):
    content, predictions = random_set(10, masks=False)
    content["annotations"] = [entry | {"iscrowd": 0} for entry in content["annotations"]]
    for entry in content["annotations"]:
        entry["area"] = entry["bbox"][2] * entry["bbox"][3]
    expected = run(COCOEvaluator(register(folder, content)), predictions)
    sparse = copy.deepcopy(content)
    for number, entry in enumerate(sparse["annotations"]):
        entry["id"] = number  # from 0, which pycocotools would take for "no match"
        del entry["area"], entry["iscrowd"]
    sparse["annotations"] += [
        {"id": 900, "image_id": 5000, "category_id": 1, "bbox": [0, 0, 9, 9]},
        {"id": 901, "image_id": content["images"][0]["id"], "category_id": 77, "bbox": [0, 0, 9, 9]},
    ]
    first = content["images"][0]["id"], content["categories"][0]["id"]
    sparse["annotations"] += [
        {"id": 902 + k, "image_id": first[0], "category_id": first[1], "bbox": box}
        for k, box in enumerate((None, [], ["0", "0", "9", "9"]))
    ]
    for entry in sparse["annotations"][::2]:
        entry["area"] = entry["iscrowd"] = None
    for backend in INSTALLED:
        np.testing.assert_equal(
            run(COCOEvaluator(register(folder, sparse), backend=backend), predictions), expected
        )


def test_test_images_without_annotations_keep_their_results(folder):
    content, predictions = random_set(11, masks=False)
    del content["annotations"]
    name = register(folder, content)
    assert run(COCOEvaluator(name, output_dir=str(folder / name)), predictions) == {}
    assert json.loads((folder / name / "coco_instances_results.json").read_text())


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
        (5, [0, 0, 9, 9], 0.5, 0, r"image ids \[5\]"),
        (4, [0, 0, np.nan, 9], 0.5, 0, "image id 4 .* not finite"),
        (4, [0, 0, np.inf, 9], 0.5, 0, "image id 4 .* not finite"),
        (4, [0, 0, 9, 9], np.nan, 0, "image id 4 .* not finite .score nan"),
        (4, [0, 0, 9, 9], 0.5, 1, "class 1, but .* 1 classes"),
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
    with pytest.raises(UserError, match=r"\[4\] were predicted twice"):
        evaluator.evaluate()


def test_faulty_ground_truth(folder):
    entry = {"id": 8, "image_id": 4, "category_id": 3, "bbox": [0, 0, 9, 9]}
    with pytest.raises(UserError, match=r"1 annotation ids are repeated .first: \[8\]"):
        COCOEvaluator(one_image(folder, annotations=[entry, entry]))
    image = {"id": "four", "file_name": "4.jpg", "height": 300, "width": 300}
    with pytest.raises(UserError, match=r"image ids \['four'\] "):
        COCOEvaluator(one_image(folder, images=[image]))


def test_names_and_tasks(folder, monkeypatch):
    with pytest.raises(UserError, match="'not_there' is not loaded"):
        COCOEvaluator("not_there")
    with pytest.raises(UserError, match=r"\['keypoints'\] are not offered"):
        COCOEvaluator(one_image(folder), tasks=["bbox", "keypoints"])
    prediction = (np.array([[0, 0, 9, 9]]), np.array([0.5]), np.array([0]), None)
    # One task needs no list.
    assert list(run(COCOEvaluator(one_image(folder), tasks="bbox"), {4: prediction})) == ["bbox"]
    with pytest.raises(UserError, match="'best' is unknown; take auto or one of hotcoco, detectron2, "):
        choose_backend("best")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert choose_backend("auto")[0].startswith("pycocotools ")
    with pytest.raises(UserError, match="'hotcoco' is not installed"):
        choose_backend("hotcoco")


def test_masks_are_not_evaluated_against_boxes(folder, caplog):
    name = one_image(folder)
    masks = np.zeros((1, 300, 300), bool)
    masks[:, :9, :9] = True
    prediction = (np.array([[0, 0, 9, 9]]), np.array([0.5]), np.array([0]), masks)
    assert list(run(COCOEvaluator(name), {4: prediction})) == ["bbox"]
    assert f"{name}.json has no masks: segm is not evaluated" in caplog.text
    with pytest.raises(UserError, match="has no masks; leave segm out"):
        COCOEvaluator(name, tasks=["bbox", "segm"])


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
    content, _ = random_set(12, images=1)
    evaluator = COCOEvaluator(register(folder, content))
    evaluator.reset()
    output = many_masks()
    masks = weakref.ref(output.pred_masks)
    peak = PeakMemory(torch.device("cpu"))
    evaluator.process([{"image_id": content["images"][0]["id"]}], [{"instances": output}])
    # The masks are 107 MB.
    assert not peak.bytes() > 30e6
    del output
    gc.collect()
    assert masks() is None
    assert plain(evaluator._predictions) and len(evaluator._predictions[0]["instances"]) == 100
