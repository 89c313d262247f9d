"""A training step of SALT-Net, R-50, from the image to gradients, against the reference arrays."""

from functools import partial

import pytest
import torch
from detectron2.structures import Boxes, Instances

from tests.modeling.dense.recorded import check, check_gradient_norms
from tests.modeling.dense.reference import in_float64, priced
from tests.modeling.reference import EXACT
from tests.modeling.salt.end_to_end import model_of, picture
from tests.modeling.salt.reference import R50
from tests.recorded import arrays, tensors

NAME, SIZE = "salt_r50_fpn_1x", (240, 300)
# Recorded name -> ours.
LOSSES = {
    "train_loss_cls": "loss_cls",
    "train_loss_bbox": "loss_box_reg",
    "train_loss_dfl": "loss_dfl",
    "train_loss_bbox_init": "loss_box_reg_init",
}


class Step:
    """The step: the recorded arrays, losses, and our parameters, in float64, in the recorded order."""

    def __init__(self, device):
        self.case = case = tensors("salt", f"e2e_{NAME}")
        model, names = model_of(R50, NAME, device)
        boxes, classes = Boxes(case["gt_boxes"]), case["gt_classes"]
        item = {
            "image": picture(NAME, SIZE),
            "instances": Instances(SIZE, gt_boxes=boxes, gt_classes=classes),
        }
        with torch.no_grad():
            self.priced = priced(model.train(), partial(model, [item]))
        exact = in_float64(model)
        sum(exact([item]).values()).backward()
        ours = dict(exact.named_parameters())
        published = arrays("salt", f"e2e_{NAME}")["param_names"].tolist()
        self.parameters = [ours[names[key]] for key in published]
        self.all_named = len(set(published)) == len(ours)


@pytest.fixture(scope="module")
def step(device):
    return Step(device)


@pytest.mark.parametrize("name", LOSSES)
def test_losses(step, name):
    levels = step.priced.levels[LOSSES[name]]
    check(levels, step.case[name])
    check(step.priced.losses[LOSSES[name]], step.case[name].sum())


def test_no_other_losses(step):
    assert set(step.priced.losses) == set(LOSSES.values())


def test_what_is_trained(step):
    """All but the stem and the first stage of the backbone."""
    assert step.all_named
    EXACT.check([p.requires_grad for p in step.parameters], step.case["param_trainable"])
    assert all((p.grad is not None) == p.requires_grad for p in step.parameters)


def test_gradients(step):
    found = [torch.zeros(1) if p.grad is None else p.grad.cpu() for p in step.parameters]
    check_gradient_norms(found, step.case["param_grad_norm"])
