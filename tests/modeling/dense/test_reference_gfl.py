"""GFL's head, losses and detections against the reference arrays."""

from functools import partial

import pytest
import torch

from htd.modeling.dense import DensePredictions
from tests.modeling.dense.recorded import (
    DETECTED,
    TRAINED,
    as_rows,
    check,
    check_detections,
    check_gradient_norms,
    check_normalisers,
    check_targets,
    normal_maps,
    objects,
)
from tests.modeling.dense.reference import (
    as_maps,
    check_losses,
    decoded,
    priced,
    random_maps,
    without_backbone,
)
from tests.recorded import tensors


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


def test_normalisers(trained):
    check_normalisers(trained.case, trained.priced)
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
    check_detections(tensors("salt", "gfl_inference"), model, *outputs, DETECTED)
