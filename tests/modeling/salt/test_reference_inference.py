"""SALT-Net's detections against the reference arrays, with and without those of the class that is not one."""

from functools import cache

import pytest
import torch
from detectron2.config import instantiate

from tests.modeling.dense.recorded import DETECTED, check_detections
from tests.modeling.dense.reference import model_config
from tests.modeling.salt.reference import R50, outputs
from tests.recorded import tensors

# Name of the case -> seed, classes, logit that scores are around, best locations and detections, images.
CASES = {
    "inference": (23, 80, -6, 1000, 100, DETECTED),
    # In pixels of the network's input.
    "inference_5cls": (24, 5, -3.5, 300, 300, [(size, (1, 1)) for size, _ in DETECTED]),
}


@cache
def model_for(classes, topk, most, device):
    """The detector of a config without its backbone, for other numbers of classes and detections."""
    config = model_config(R50)
    config.backbone = None
    config.num_classes = classes
    config.head.predictors.extra_classes = 1
    config.postprocessing.pre_nms.topk = topk
    config.postprocessing.max_detections = most
    return instantiate(config).to(device)


@pytest.mark.parametrize("name", CASES)
def test_detections(name, device, monkeypatch):
    """The recorded ones keep the class that is not one: it takes places, and is dropped in the end."""
    seed, classes, logit, topk, most, images = CASES[name]
    case, model = tensors("salt", name), model_for(classes, topk, most, device)
    maps = outputs(seed, len(images), logit=logit, factor=3, device=device, channels=classes + 1)
    assert model.postprocessing.num_classes == classes
    kept = {i: case[f"labels{i}"] < classes for i in range(len(images))}
    fewer = dict(case)
    for i, rows in kept.items():
        assert (~rows).sum() == case[f"num_bg_channel{i}"]
        fewer |= {f"{field}{i}": case[f"{field}{i}"][rows] for field in ("dets", "labels")}
    assert not all(rows.all() for rows in kept.values())
    found = check_detections(fewer, model, *maps, images)
    monkeypatch.setattr(model.postprocessing, "num_classes", None)
    whole = check_detections(case, model, *maps, images)
    for i, rows in kept.items():
        assert torch.equal(whole[i].scores[rows.to(device)], found[i].scores)
