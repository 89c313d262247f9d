"""The limits of the rules on OpenImages, by hand."""

import numpy as np
import pytest

from htd.errors import UserError
from htd.evaluation import OfficialRule, OpenImagesEvaluator, PublishedRule, read_detections
from htd.evaluation.open_images_rules import OpenImagesTruth, score
from htd.evaluation.open_images_scores import BoxTable
from tests.open_images import Official

NONE = np.zeros((0, 2), np.int64)
rules = pytest.mark.parametrize("rule", [PublishedRule, OfficialRule])


def ap(rule, box, group):
    """Return the AP of a detection in an image with one object, or group of objects, (0, 0, 10, 10)."""
    one = np.zeros(1, np.int64), np.zeros(1, np.int64)
    objects = BoxTable(*one, np.array([[0.0, 0, 10, 10]]), np.array([group]))
    truth = OpenImagesTruth(["x"], objects, NONE, NONE, np.eye(1, dtype=bool))
    return score(truth, BoxTable(*one, np.array([box], float), np.ones(1)), rule).ap[0]


@rules
def test_iou_from_which_an_object_is_found(rule):
    """The detection has IoU 0.7 with the object."""
    found = [ap(rule(iou_threshold=value), (0, 0, 10, 7), False) for value in (0.5, 0.7, 0.71, 1.0)]
    assert found == [1, 1, 0, 0]
    assert ap(rule(group_share=1.0), (0, 0, 10, 7), False) == 1 == ap(rule(), (0, 0, 10, 5), False)
    assert ap(rule(), (0, 0, 10, 4.9), False) == 0


@rules
def test_share_from_which_a_detection_lies_in_a_group(rule):
    """A quarter of the detection does, and another one lies in it wholly."""
    found = [ap(rule(group_share=value), (0, 0, 20, 20), True) for value in (0.2, 0.25, 0.26, 1.0)]
    assert found == [1, 1, 0, 0] and ap(rule(group_share=1.0), (0, 0, 5, 5), True) == 1
    assert ap(rule(iou_threshold=1.0), (0, 0, 10, 20), True) == 1 == ap(rule(), (0, 0, 10, 20), True)
    assert ap(rule(), (0, 0, 10, 21), True) == 0


@rules
@pytest.mark.parametrize("name", ["iou_threshold", "group_share"])
@pytest.mark.parametrize("value", [0.0, 50.0, float("nan"), "abc"])
def test_limits_that_cannot_be(rule, name, value):
    with pytest.raises(UserError, match=f"{name} of a rule of OpenImages is {value}; it has to be a"):
        rule(**{name: value})


@pytest.mark.parametrize("value", [-0.5, float("inf"), float("nan"), "abc"])
def test_weights_of_groups_that_cannot_be(value):
    with pytest.raises(UserError, match=f"group_weight of a rule of OpenImages is {value}; .* of at least 0"):
        PublishedRule(group_weight=value)


def test_results_are_named_after_the_iou(tmp_path):
    Official(tmp_path, [("x", "/m/a", 0.0, 0.5, 0.0, 0.5, 0)], classes=("a",)).load("open_images_75")
    (tmp_path / "found.txt").write_text("x 0 0 .5 .35 1 1\n")
    evaluator = OpenImagesEvaluator("open_images_75", PublishedRule(iou_threshold=0.75))
    found = evaluator.score(read_detections(tmp_path / "found.txt"))["bbox"]
    assert found == {"AP75": 0, "AR75": 0, "MeanRecall75": 0, "AP75-a": 0}
