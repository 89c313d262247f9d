"""ATSS and task alignment against the rules written as loops, on few and many priors, and by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from htd.modeling.dense.assigners import ATSSAssigner, Predicted
from htd.modeling.dense.boxes import Priors
from htd.modeling.tood.task_alignment import TaskAlignedAssigner
from tests.modeling.dense.assigners import everywhere, priors_of, random_objects, random_predictions
from tests.modeling.dense.plain_assigners import plain_alignment, plain_atss
from tests.recorded import close

# From an image of several objects down to fewer priors than an object looks at, and one in all.
SHAPES = [
    ((12, 16), (6, 8), (3, 4), (2, 2), (1, 1)),
    ((3, 2), (2, 1), (1, 1)),
    ((2, 3), (1, 1)),
    ((1, 1),),
]
SCENES = {
    "seed": st.integers(0, 2**31),
    "shapes": st.sampled_from(SHAPES),
    "objects": st.integers(0, 12),
    "share": st.sampled_from([0.0, 0.5, 1.0]),
    "num_classes": st.sampled_from([1, 8]),
}


def scene(seed, shapes, objects, share, num_classes):
    """Return priors, of which a share is valid, and random objects and predictions."""
    priors = priors_of(shapes, (8, 16, 32, 64, 128)[: len(shapes)])
    valid = torch.rand(len(priors), generator=torch.Generator().manual_seed(seed)) < share
    size = (8 * shapes[0][0], 8 * shapes[0][1])
    truth = random_objects(objects, *size, seed, num_classes)
    return priors, valid, *truth, random_predictions(priors, seed, num_classes)


@settings(max_examples=80, deadline=None)
@given(**SCENES)
def test_atss_equals_loops(**drawn):
    priors, valid, gt_boxes, gt_classes, _ = scene(**drawn)
    found = ATSSAssigner()(priors, valid, gt_boxes, gt_classes)
    assert found.gt_index.tolist() == plain_atss(priors, valid, gt_boxes).tolist()
    assert torch.equal(found.metric, (found.gt_index >= 0).float())


@settings(max_examples=80, deadline=None)
@given(**SCENES)
def test_task_alignment_equals_loops(**drawn):
    inputs = scene(**drawn)
    found = TaskAlignedAssigner()(*inputs)
    index, metric = plain_alignment(*inputs)
    assert found.gt_index.tolist() == index.tolist()
    close(found.metric, metric, atol=1e-6)


@pytest.mark.parametrize("side", [7, 20, 33, 40, 52])
def test_anchors_that_overlap_alike_are_all_positive(side):
    """The object lies midway between four anchors of side 64: the IoU of all is the threshold."""
    priors = priors_of([(6, 6)], [8])
    middle = torch.tensor([20.0, 20, 20, 20])
    truth = (middle + torch.tensor([-1.0, -1, 1, 1]) * (side / 2 + 4))[None]
    for topk in (3, 4):
        inputs = priors, everywhere(priors), truth
        assigner = ATSSAssigner(topk=topk)
        found, candidates = assigner(*inputs, torch.zeros(1)), assigner.candidates(*inputs)
        assert candidates.iou.unique().tolist() == candidates.threshold.tolist()
        assert (found.gt_index == 0).sum() == topk


@pytest.mark.parametrize("side", [4, 6, 7])
def test_anchors_that_are_not_valid_do_not_move_the_threshold(side):
    """Seven anchors overlap the object alike, to a number that rounds; one equals it, but is not valid."""
    truth = torch.tensor([[0.0, 0, side, 30]])
    alike = truth + torch.tensor([-20.0, 0, 20, 0])
    priors = Priors(torch.cat([alike.repeat(7, 1), truth]), ((1, 8),), (8,))
    valid = torch.arange(8) < 7
    candidates = ATSSAssigner().candidates(priors, valid, truth)
    assert candidates.valid.sum() == 7
    assert candidates.iou[candidates.valid].unique().tolist() == candidates.threshold.tolist()
    assert ATSSAssigner()(priors, valid, truth, torch.zeros(1)).gt_index.tolist() == [0] * 7 + [-2]


def test_one_candidate_has_no_deviation_so_it_is_not_positive():
    priors = priors_of([(1, 1)], [8])
    truth = torch.tensor([[-32.0, -32, 32, 32]])
    assert ATSSAssigner()(priors, everywhere(priors), truth, torch.zeros(1)).gt_index.tolist() == [-1]
    threshold = ATSSAssigner().candidates(priors, everywhere(priors), truth).threshold
    assert threshold.isnan().tolist() == [True]


def test_middles_of_anchors_lie_farther_inside_than_the_margin():
    """Three anchors around the object, with their middles at x of 0, 8 and 16, overlap it alike."""
    priors = priors_of([(1, 3)], [8])
    for left, wanted in [(7.98, [-1, 0, -1]), (7.995, [-1, -1, -1])]:
        truth = torch.tensor([[left, -30.0, 8.5, 30]])
        inputs = priors, everywhere(priors), truth, torch.tensor([0])
        assert ATSSAssigner()(*inputs).gt_index.tolist() == wanted
        predicted = Predicted(torch.ones(3, 1), truth.expand(3, -1))
        assert TaskAlignedAssigner()(*inputs, predicted).gt_index.tolist() == wanted


def test_alignment_by_hand():
    """Four priors in one object, of scores 0.9, 0.5, 0.9, 0.8 and IoU 0.5, 1, 0.25, 0.

    t is 0.9 / 64, 0.5, 0.9 / 4096 and 0. Of the three with t above 0 the greatest is the second's; graded
    it is the greatest IoU, 1, and the others are t / 0.5.
    """
    priors = priors_of([(1, 4)], [8], side=1, offset=0.5)
    truth = torch.tensor([[0.0, 0, 32, 8]])
    boxes = torch.tensor([[0.0, 0, 16, 8], [0, 0, 32, 8], [0, 0, 8, 8], [40, 0, 48, 8]])
    predicted = Predicted(torch.tensor([[0.1, 0.9], [0.9, 0.5], [0.1, 0.9], [0.9, 0.8]]), boxes)
    inputs = priors, everywhere(priors), truth, torch.tensor([1]), predicted
    found = TaskAlignedAssigner()(*inputs)
    assert found.gt_index.tolist() == [0, 0, 0, -1]
    close(found.metric, torch.tensor([0.9 / 64 / 0.5, 1, 0.9 / 4096 / 0.5, 0]), atol=1e-6)
    two = TaskAlignedAssigner(topk=2)(*inputs)
    assert two.gt_index.tolist() == [0, 0, -1, -1]
    scores = TaskAlignedAssigner(alpha=1, beta=0.5, topk=1)(*inputs)
    assert scores.gt_index.tolist() == [0, -1, -1, -1]  # 0.9 * 0.5 ** 0.5 against 0.5 * 1


def test_a_prior_goes_to_the_object_that_its_box_overlaps_better_not_to_the_better_aligned():
    priors = priors_of([(1, 1)], [8], side=1, offset=0.5)
    truth = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 8]])
    predicted = Predicted(torch.tensor([[0.9, 0.1]]), torch.tensor([[0.0, 0, 10, 8.5]]))
    inputs = priors, everywhere(priors), truth, torch.tensor([0, 1, 1]), predicted
    candidates, found = TaskAlignedAssigner().candidates(*inputs), TaskAlignedAssigner()(*inputs)
    assert candidates.alignment[0] > candidates.alignment[1] == candidates.alignment[2]
    assert candidates.positive.all()
    assert found.gt_index.tolist() == [1]  # of the two equal objects the first
