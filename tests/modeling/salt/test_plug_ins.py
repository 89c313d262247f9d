"""SALT in RetinaNet, which has nine anchors a cell: one coarse box for all of them."""

from functools import partial

import pytest
import torch
from detectron2.structures import pairwise_iou

from htd.modeling.salt.coarse_loss import Cells, coarse_boxes
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
    matched, objects = found[0].matched, found[1]
    overlap = pairwise_iou(type(objects)(matched.priors.boxes), objects).amax(dim=1)
    cells, shared = Cells.of(matched), 0
    assert cells.positive.shape == (2, len(matched.priors) // ANCHORS) and not cells.positive[1].any()
    for cell, prior in enumerate(cells.prior[0].tolist()):
        rows = [ANCHORS * cell + k for k in range(ANCHORS)]
        positive = [row for row in rows if matched.positive[0, row]]
        assert prior in rows and bool(positive) == cells.positive[0, cell].item()
        if positive:
            assert prior == max(positive, key=lambda row: overlap[row].item())
            shared += len(positive) > 1
    assert shared


def test_losses_of_coarse_boxes_are_divided_by_cells(found):
    case, matched = found[0], found[0].matched
    positives = matched.positive.sum().item()
    cells = Cells.of(matched).positive.sum().item()
    assert case.norms["loss_box_reg_init"] == cells
    # The image without objects counts as one.
    assert case.norms["loss_box_reg"] == positives + 1 > cells + 1


@torch.no_grad()
def test_coarse_boxes_lie_around_the_cells(found):
    """All anchors of a cell have one middle, and distances are in cells."""
    matched = found[0].matched
    boxes, priors = coarse_boxes(matched), matched.priors
    distances = matched.predictions.coarse * priors.stride_of_each[::ANCHORS, None]
    for k in range(ANCHORS):
        x, y = priors.centers[k::ANCHORS].unbind(dim=1)
        sides = torch.stack([x - boxes[..., 0], y - boxes[..., 1], boxes[..., 2] - x, boxes[..., 3] - y], -1)
        torch.testing.assert_close(sides, distances, atol=1e-3, rtol=1e-5)
    assert distances.any()
