"""ATSS's head, detections and losses against the reference arrays."""

import pytest
import torch

from tests.modeling.dense.reference import (
    LOSSES,
    STRIDES,
    Losses,
    as_maps,
    check_detections,
    check_losses,
    check_positives,
    decoded,
    random_maps,
    without_backbone,
)
from tests.modeling.reference import Tolerance
from tests.recorded import tensors

LEAF, SEED = "baselines/atss_r50_fpn_1x", 71
IMAGE_SIZE, BATCH_SIZE = (120, 150), (128, 160)
LOGITS = Tolerance(absolute=2e-4)
DELTAS = Tolerance(absolute=1e-4)


@pytest.fixture(scope="module")
def head(device):
    return without_backbone(LEAF, "tood", "head_atss", device)


@pytest.fixture(scope="module")
def predictions(head, device):
    """The head's predictions at the maps of one image, and the maps."""
    model, _ = head
    features = random_maps(SEED, 1, *BATCH_SIZE, device)
    with torch.no_grad():
        return model.eval().head(features), features


def test_head(head, predictions):
    case, (model, _), (found, features) = tensors("tood", "atss_head"), head, predictions
    priors = model.priors(features)
    maps = {
        "cls_logit": (as_maps(found.logits, priors), LOGITS),
        "bbox_delta": (as_maps(found.regression, priors), DELTAS),
        "centerness_logit": (as_maps(found.centerness[..., None], priors), LOGITS),
    }
    for name, (levels, tolerance) in maps.items():
        recorded = [level for level in STRIDES if f"{name}_{level}" in case]
        assert recorded[-4:] == list(STRIDES)[1:]
        for level in recorded:
            tolerance.check(levels[level], case[f"{name}_{level}"])


@torch.no_grad()
def test_detections(head, predictions, device):
    (model, _), (found, features) = head, predictions
    predicted = decoded(model, features, found)
    (candidates,) = model.postprocessing.pre_nms_boxes(*predicted, [IMAGE_SIZE])
    detections = model.postprocessing.select(candidates, IMAGE_SIZE)
    check_detections(tensors("tood", "atss_head"), "det", detections)
    low, high = detections.pred_boxes.tensor.split(2, dim=1)
    assert (low >= 0).all() and (high <= high.new_tensor(IMAGE_SIZE[::-1])).all()


@pytest.fixture(scope="module")
def losses(head):
    return Losses("atss_loss", *head, SEED)


def test_losses(losses):
    check_losses(losses.case, losses.priced)


def test_normalisers(losses):
    """The image without objects counts as one positive prior."""
    norms = losses.priced.norms
    assert norms["loss_cls"] == norms["loss_centerness"] == losses.case["num_pos_avg"]
    assert norms["loss_cls"] == losses.priced.targets.positive.sum() + 1
    LOSSES.check(norms["loss_box_reg"], losses.case["bbox_norm_raw"])


def test_targets(losses):
    check_positives(losses.case, losses.priced.targets)
    assert not losses.priced.targets.counted.all()


@pytest.mark.parametrize("loss", ["loss_cls", "loss_bbox", "loss_centerness"])
def test_gradients(losses, loss):
    losses.check_gradients(loss)
