"""The evaluator of OpenImages: reference arrays through all parts, frames of boxes, ranks, faults."""

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm

from htd.errors import UserError
from htd.evaluation import (
    OfficialRule,
    OpenImagesEvaluator,
    PublishedRule,
    read_detections,
)
from tests.open_images import REFERENCE, Official, reference_dataset
from tests.recorded import arrays

TREE = {"LabelName": "/m/b", "Subcategory": [{"LabelName": "/m/a"}, {"LabelName": "/m/c"}]}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Return the reference arrays, and the folder of the data set that they are."""
    folder = tmp_path_factory.mktemp("reference")
    reference_dataset(folder, "open_images_reference")
    case = arrays("tsd", REFERENCE)
    (folder / "detections.txt").write_text(str(case["det_text"]))
    return case, folder


def test_reference_arrays(reference, tmp_path):
    case, folder = reference
    detections = read_detections(folder / "detections.txt")
    evaluator = OpenImagesEvaluator("open_images_reference", PublishedRule(), output_dir=str(tmp_path))
    found = evaluator.score(detections)["bbox"]
    assert found["AP50"] / 100 == pytest.approx(float(case["mean_ap"]), abs=1e-6)
    assert found["MeanRecall50"] / 100 == pytest.approx(float(case["mean_recall"]), abs=1e-6)
    each = [found[f"AP50-class{number}"] / 100 for number in range(1, 13)]
    np.testing.assert_allclose(each, case["ap"], rtol=0, atol=1e-6)
    ancestors = MetadataCatalog.get("open_images_reference").class_ancestors
    expected = [np.flatnonzero(row).tolist() for row in case["class_label_tree"][1:, 1:]]
    assert ancestors == expected
    without = OpenImagesEvaluator("open_images_reference", PublishedRule(group_weight=0.0))
    mean = without.score(detections)["bbox"]["AP50"] / 100
    assert mean == pytest.approx(float(case["mean_ap_group0"]), abs=1e-6)
    # What is kept is what was read.
    kept = read_detections(tmp_path / "open_images_detections.txt")
    assert kept.ids == detections.ids
    np.testing.assert_array_equal(kept.table.boxes, detections.table.boxes)


def test_the_official_rule_reads_the_negative_labels(reference):
    """Of the same detections more are false where classes were verified as absent, so no AP is higher."""
    _, folder = reference
    detections = read_detections(folder / "detections.txt")
    results = [
        OpenImagesEvaluator("open_images_reference", rule).score(detections)["bbox"]
        for rule in (OfficialRule(), PublishedRule())
    ]
    pairs = [(results[0][f"AP50-class{k}"], results[1][f"AP50-class{k}"]) for k in range(2, 13)]
    assert all(official <= published for official, published in pairs)
    assert any(official < published for official, published in pairs)


def instances(boxes, scores, classes, size=(50, 100)):
    found = Instances(size)
    found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    found.scores, found.pred_classes = torch.tensor(scores), torch.tensor(classes, dtype=torch.int64)
    return {"instances": found}


def by_hand(folder, name, **options):
    """Two images of 50 x 100 pixels, one object of class a, and class b above it."""
    data = Official(folder, [("x", "/m/a", 0.1, 0.5, 0.2, 0.6, 0)], [("y", "/m/c", 0)], tree=TREE)
    return data.load(name, **options)


def predict(evaluator, images, outputs):
    evaluator.reset()
    for image, output in zip(images, outputs, strict=True):
        evaluator.process([{"image_id": image, "height": 50, "width": 100}], [output])
    return evaluator.evaluate()


OUTPUTS = [instances([[10, 10, 50, 30], [0, 0, 9, 9]], [0.5, 0.9], [0, 2]), instances([], [], [])]


def test_detections_of_a_model(tmp_path, caplog):
    """The box of x is found. A better scored c is not judged in x, but it is also a b, and as such false."""
    by_hand(tmp_path, "open_images_model")
    evaluator = OpenImagesEvaluator("open_images_model", PublishedRule(), output_dir=str(tmp_path / "out"))
    found = predict(evaluator, ["x", "y"], OUTPUTS)["bbox"]
    assert list(found) == ["AP50", "AR50", "MeanRecall50", "AP50-a", "AP50-b", "AP50-c"]
    assert [found[key] for key in ("AP50", "AR50", "AP50-a", "AP50-b")] == [75, 100, 100, 50]
    assert np.isnan(found["AP50-c"])
    lines = (tmp_path / "out" / "open_images_detections.txt").read_text().splitlines()
    assert lines == [
        "x 0.100000 0.200000 0.500000 0.600000 0.500000 1",
        "x 0.000000 0.000000 0.090000 0.180000 0.900000 3",
    ]
    np.testing.assert_equal(evaluator.evaluate()["bbox"], found)
    assert "no detections at all" not in caplog.text
    nothing = predict(evaluator, ["x"], [instances([], [], [])])["bbox"]
    assert "no detections at all" in caplog.text
    assert (nothing["AP50"], nothing["AR50"]) == (0, 0)
    np.testing.assert_equal(predict(evaluator, [], [])["bbox"], nothing)


def test_inclusive_ends_are_taken_off_again(tmp_path):
    """The area of an inclusive box (10, 10, 49, 29) is (10, 10, 50, 30); scored are the inclusive ends."""
    for name, inclusive in (("open_images_ends", False), ("open_images_inclusive", True)):
        (tmp_path / name).mkdir()
        records = by_hand(tmp_path / name, name, inclusive_ends=inclusive)
        end = float(inclusive)
        assert records[0]["annotations"][0]["bbox"] == pytest.approx([10, 10, 50 + end, 30 + end])
        output = tmp_path / name / "out"
        evaluator = OpenImagesEvaluator(name, PublishedRule(), output_dir=str(output))
        boxes = [[10, 10, 31 + end, 30 + end]]
        assert predict(evaluator, ["x"], [instances(boxes, [0.5], [0])])["bbox"]["AP50"] == 100
        text = (output / "open_images_detections.txt").read_text()
        assert text == "x 0.100000 0.200000 0.310000 0.600000 0.500000 1\n"


def test_ranks(tmp_path, monkeypatch):
    by_hand(tmp_path, "open_images_ranks")
    evaluator = OpenImagesEvaluator("open_images_ranks", OfficialRule())
    expected = predict(evaluator, ["x", "y"], OUTPUTS)
    monkeypatch.setattr(comm, "gather", lambda data, dst: [[], data[:1], data[1:]])
    np.testing.assert_equal(evaluator.evaluate(), expected)
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    assert evaluator.evaluate() == {}


def test_faulty_input(tmp_path, caplog):
    by_hand(tmp_path, "open_images_faulty")
    with pytest.raises(UserError, match="'coco_2017_val' is no OpenImages data"):
        OpenImagesEvaluator("coco_2017_val", PublishedRule())
    evaluator = OpenImagesEvaluator("open_images_faulty", PublishedRule())
    with pytest.raises(UserError, match=r"images \['x'\] were predicted twice"):
        predict(evaluator, ["x", "x"], OUTPUTS)
    with pytest.raises(UserError, match="image x has a detection that is not finite"):
        predict(evaluator, ["x"], [instances([[0, 0, float("nan"), 1]], [0.5], [0])])
    with pytest.raises(UserError, match="class 3 .from 0., but open_images_faulty has 3"):
        predict(evaluator, ["x"], [instances([[0, 0, 1, 1]], [0.5], [3])])
    assert predict(evaluator, ["x", "z"], OUTPUTS)["bbox"]["AP50"] == 75
    assert "1 images are not in open_images_faulty" in caplog.text


def test_results_are_named_after_the_iou(tmp_path):
    Official(tmp_path, [("x", "/m/a", 0.0, 0.5, 0.0, 0.5, 0)], classes=("a",)).load("open_images_75")
    (tmp_path / "found.txt").write_text("x 0 0 .5 .35 1 1\n")
    evaluator = OpenImagesEvaluator("open_images_75", PublishedRule(iou_threshold=0.75))
    found = evaluator.score(read_detections(tmp_path / "found.txt"))["bbox"]
    assert found == {"AP75": 0, "AR75": 0, "MeanRecall75": 0, "AP75-a": 0}
