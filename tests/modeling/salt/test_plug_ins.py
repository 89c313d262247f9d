"""SALT in RetinaNet, which has nine anchors a cell: one coarse box for all of them."""

from functools import partial

import pytest
from detectron2.config import LazyConfig
from detectron2.structures import pairwise_iou

from htd.errors import UserError
from htd.modeling.salt.coarse_boxes import best_prior_of_cells
from tests.configs.reduced import build, example
from tests.modeling.dense.reference import priced
from tests.modeling.htc.small import randomise

ANCHORS = 9


@pytest.fixture(scope="module")
def found():
    """What the reduced model's predictions cost: an image with objects, one with none."""
    model = randomise(build("configs/salt/salt_retinanet_r50_fpn_1x.py")).train()
    inputs = [example(3, seed=4), example(0, seed=5)]
    return priced(model, partial(model, inputs)), inputs[0]["instances"].gt_boxes


def test_one_anchor_stands_for_each_cell(found):
    """Of those of its anchors that have an object the one that overlaps its object most, in a loop."""
    matched, objects = found[0].targets, found[1]
    overlap = pairwise_iou(type(objects)(matched.priors.boxes), objects).amax(dim=1)
    (prior_of_cell, positive_cell), shared = best_prior_of_cells(matched), 0
    assert positive_cell.shape == (2, len(matched.priors) // ANCHORS) and not positive_cell[1].any()
    for cell, prior in enumerate(prior_of_cell[0].tolist()):
        rows = [ANCHORS * cell + k for k in range(ANCHORS)]
        positive = [row for row in rows if matched.positive[0, row]]
        assert prior in rows and bool(positive) == positive_cell[0, cell].item()
        if positive:
            assert prior == max(positive, key=lambda row: overlap[row].item())
            shared += len(positive) > 1
    assert shared


def test_losses_of_coarse_boxes_are_divided_by_cells(found):
    case, matched = found[0], found[0].targets
    positives = matched.positive.sum().item()
    cells = best_prior_of_cells(matched)[1].sum().item()
    assert case.norms["loss_box_reg_init"] == cells
    # The image without objects counts as one.
    assert case.norms["loss_box_reg"] == positives + 1 > cells + 1


def test_the_operator_is_plugged_in_once_and_beside_a_box_loss():
    plug_in_salt = LazyConfig.load("configs/common/models/salt.py", "plug_in_salt")
    with pytest.raises(UserError, match="already"):
        plug_in_salt(LazyConfig.load("configs/salt/salt_atss_r50_fpn_1x.py").model)
    with pytest.raises(UserError, match="dense detector"):
        plug_in_salt(LazyConfig.load("configs/baselines/faster_rcnn_r50_fpn_1x.py").model)
    config = LazyConfig.load("configs/baselines/atss_r50_fpn_1x.py").model
    config.criterion.terms[1].name = "loss_box"
    with pytest.raises(UserError, match="loss_box_reg"):
        plug_in_salt(config)
