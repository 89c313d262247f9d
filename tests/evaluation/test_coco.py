"""The evaluator: equal to pycocotools on random sets, right at the edges, strict about its input."""

import copy
import json

import numpy as np
import pytest
from detectron2.evaluation import COCOEvaluator as Detectron2COCOEvaluator
from detectron2.utils import comm
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from htd.evaluation import COCOEvaluator

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
