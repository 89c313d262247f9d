"""ATSS and GFL as published, against the recorded arrays: head, losses, detections."""

from functools import partial

import pytest
import torch

from htd.modeling.dense import DensePredictions
from tests.modeling.dense.recorded import (
    DETECTED,
    TRAINED,
    as_rows,
    check,
    check_gradient_norms,
    check_normalizers,
    check_recorded_detections,
    check_targets,
    normal_maps,
    objects,
)
from tests.modeling.dense.reference import (
    LOSSES,
    STRIDES,
    Losses,
    as_maps,
    check_detections,
    check_losses,
    check_positives,
    decoded,
    priced,
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
def atss_head(device):
    return without_backbone(LEAF, "tood", "head_atss", device)


@pytest.fixture(scope="module")
def atss_predictions(atss_head, device):
    """The head's predictions at the maps of one image, and the maps."""
    model, _ = atss_head
    features = random_maps(SEED, 1, *BATCH_SIZE, device)
    with torch.no_grad():
        return model.eval().head(features), features


def test_atss_head(atss_head, atss_predictions):
    case, (model, _), (found, features) = tensors("tood", "atss_head"), atss_head, atss_predictions
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
def test_atss_detections(atss_head, atss_predictions, device):
    (model, _), (found, features) = atss_head, atss_predictions
    predicted = decoded(model, features, found)
    (candidates,) = model.postprocessing.pre_nms_boxes(*predicted, [IMAGE_SIZE])
    detections = model.postprocessing.select(candidates, IMAGE_SIZE)
    check_detections(tensors("tood", "atss_head"), "det", detections)
    low, high = detections.pred_boxes.tensor.split(2, dim=1)
    assert (low >= 0).all() and (high <= high.new_tensor(IMAGE_SIZE[::-1])).all()


@pytest.fixture(scope="module")
def atss_losses(atss_head):
    return Losses("atss_loss", *atss_head, SEED)


def test_atss_losses(atss_losses):
    check_losses(atss_losses.case, atss_losses.priced)


def test_atss_normalizers(atss_losses):
    """The image without objects counts as one positive prior."""
    norms = atss_losses.priced.norms
    assert norms["loss_cls"] == norms["loss_centerness"] == atss_losses.case["num_pos_avg"]
    assert norms["loss_cls"] == atss_losses.priced.targets.positive.sum() + 1
    LOSSES.check(norms["loss_box_reg"], atss_losses.case["bbox_norm_raw"])


def test_atss_targets(atss_losses):
    check_positives(atss_losses.case, atss_losses.priced.targets)
    assert not atss_losses.priced.targets.counted.all()


@pytest.mark.parametrize("loss", ["loss_cls", "loss_bbox", "loss_centerness"])
def test_atss_gradients(atss_losses, loss):
    atss_losses.check_gradients(loss)


@pytest.fixture(scope="module")
def model(device):
    return without_backbone("baselines/gfl_r50_fpn_1x", "salt", "manifest_gfl_head", device)[0]


@torch.no_grad()
def test_head(model, device):
    case, features = tensors("salt", "gfl_head_forward"), random_maps(71, 1, 64, 80, device)
    found, priors = model.eval().head(features), model.priors(features)
    assert found.centerness is None
    for name, rows in (("cls_score", found.logits), ("bbox_pred", found.regression)):
        for i, level in enumerate(as_maps(rows, priors).values()):
            check(level, case[f"{name}{i}"])


def recorded_outputs(seed, images, logit, factor, device):
    """The maps of class logits and of distributions that a case takes for a head's output."""
    logits = normal_maps("cls", 80, seed, images, device)
    sides = normal_maps("reg", 68, seed, images, device)
    return [1.5 * x + logit for x in logits], [factor * x for x in sides]


class Trained:
    """The case of the losses."""

    def __init__(self, model, device):
        self.case = tensors("salt", "gfl_loss")
        self.logits, self.sides = recorded_outputs(72, len(TRAINED), -3, 2, device)
        for x in (*self.logits, *self.sides):
            x.requires_grad_()
        predictions = DensePredictions(as_rows(self.logits), as_rows(self.sides))
        self.truth = objects(self.case, TRAINED, device)
        train = partial(model.criterion, *decoded(model, self.logits, predictions), self.truth)
        self.priced = priced(model, train)


@pytest.fixture(scope="module")
def trained(model, device):
    return Trained(model.train(), device)


def test_targets(trained):
    check_targets(trained.case, trained.priced.targets, trained.truth)


def test_losses(trained):
    check_losses(trained.case, trained.priced, total="loss_total")


def test_normalizers(trained):
    check_normalizers(trained.case, trained.priced)
    assert set(trained.priced.norms) == {"loss_cls", "loss_box_reg", "loss_dfl"}


def test_gradients(trained):
    total, outputs = sum(trained.priced.losses.values()), [*trained.logits, *trained.sides]
    found = torch.autograd.grad(total, outputs, retain_graph=True)
    for name, levels in (("cls", found[:5]), ("reg", found[5:])):
        check_gradient_norms(levels, trained.case[f"gradnorm_{name}"])
        for i in (2, 3, 4):
            check(levels[i], trained.case[f"grad_{name}{i}"])


def test_detections(model, device):
    """By the parts of the config, in the frame of images of another size."""
    outputs = recorded_outputs(73, len(DETECTED), -6, 3, device)
    check_recorded_detections(tensors("salt", "gfl_inference"), model, *outputs, DETECTED)
