"""Weights of a classifier with an output beyond the classes, and a model without it, or the reverse."""

import pytest
import torch
from detectron2.config import instantiate

from htd.checkpoint.training import TrainingCheckpointer
from htd.checkpoint.weights import load_whole
from htd.errors import UserError
from tests.configs.reduced import reduced_model

SALT, RETINANET = (f"configs/salt/salt_{host}r50_fpn_1x.py" for host in ("", "retinanet_"))
KEY = "model.head.predictors.extra_classes"


def model(leaf, extra_classes, num_classes=4):
    config = reduced_model(leaf, num_classes)
    config.head.predictors.extra_classes = extra_classes
    config.postprocessing.num_classes = num_classes if extra_classes else None
    return instantiate(config)


def refusal(tmp_path, leaf, theirs, ours):
    """What is said when a model is to be evaluated with the weights of another."""
    path = str(tmp_path / "weights.pth")
    torch.save({"model": model(leaf, *theirs).state_dict()}, path)
    with pytest.raises(UserError) as error:
        load_whole(TrainingCheckpointer(model(leaf, *ours)), path, everything=False)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("leaf", "anchors", "theirs", "ours"), [(SALT, 1, 1, 0), (SALT, 1, 0, 1), (RETINANET, 9, 0, 1)]
)
def test_the_other_kind_is_refused(tmp_path, leaf, anchors, theirs, ours):
    message = refusal(tmp_path, leaf, (theirs,), (ours,))
    rows = f"is ({anchors * (4 + theirs)},) in the file and ({anchors * (4 + ours)},) in the model"
    assert f"head.predictors.cls_score.bias {rows}" in message
    assert f"; for the same classes set {KEY}={theirs}; where only first numbers differ, set num" in message


@pytest.mark.parametrize(("theirs", "ours"), [((0, 3), (0, 4)), ((0, 4), (0, 7)), ((1, 9), (1, 4))])
def test_other_classes_alone(tmp_path, theirs, ours):
    message = refusal(tmp_path, SALT, theirs, ours)
    assert "where only first numbers differ, set num_classes" in message and KEY not in message


def test_other_detectors_are_not_told_of_it(tmp_path):
    assert KEY not in refusal(tmp_path, RETINANET, (0, 5), (0, 4))


def test_the_same_kind_is_taken(tmp_path):
    path, target = str(tmp_path / "weights.pth"), model(SALT, 1)
    torch.save({"model": model(SALT, 1).state_dict()}, path)
    load_whole(TrainingCheckpointer(target), path, everything=False)
