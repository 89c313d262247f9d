"""RetinaNet's assignment by hand, and against Detectron2's matcher where the rules are the same."""

import torch
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, pairwise_iou
from hypothesis import given, settings
from hypothesis import strategies as st

from htd.modeling.dense.assigners import IoUAssigner
from htd.modeling.dense.boxes import Priors
from tests.modeling.dense.assigners import everywhere, priors_of, random_objects


def strip(*spans):
    """Return boxes of height 10 that span the given x."""
    return torch.tensor([[x1, 0.0, x2, 10.0] for x1, x2 in spans])


def assign(anchors, truth, valid=None, **settings):
    """Return the objects of anchors that make up one level."""
    priors = Priors(anchors, ((1, len(anchors)),), (8,))
    valid = everywhere(priors) if valid is None else torch.tensor(valid)
    classes = torch.zeros(len(truth), dtype=torch.int64)
    return IoUAssigner(**settings)(priors, valid, truth, classes).gt_index.tolist()


def test_thresholds():
    """IoU with (0, 10): 1, 0.8, 0.5, 0.45, 0.4 and 0.3; from 0.4 on, below 0.5, anchors are unused."""
    anchors = strip((0, 10), (0, 8), (0, 5), (0, 4.5), (0, 4), (0, 3))
    assert assign(anchors, strip((0, 10))) == [0, 0, 0, -2, -2, -1]
    assert assign(anchors, strip((0, 10)), positive_iou=0.6, negative_iou=0.45) == [0, 0, -2, -2, -1, -1]


def test_an_object_gets_its_best_anchors_however_little_they_overlap():
    """The best IoU is 1 / 39, attained twice."""
    anchors = strip((0, 20), (38, 58), (100, 120))
    assert assign(anchors, strip((19, 39))) == [0, 0, -1]
    assert assign(anchors, strip((19, 39)), low_quality_iou=0.03) == [-1, -1, -1]


def test_an_object_takes_its_best_anchor_from_one_that_it_overlaps_better():
    """IoU of anchor 0: 1 with object 0, 0.4 with object 1, whose best it is. Detectron2 leaves it to 0."""
    anchors, truth = strip((0, 10), (20, 30)), strip((0, 10), (0, 4))
    assert assign(anchors, truth) == [1, -1]
    matched, _ = Matcher([0.4, 0.5], [0, -1, 1], allow_low_quality_matches=True)(
        pairwise_iou(Boxes(truth), Boxes(anchors))
    )
    assert matched[0] == 0


def test_of_equal_objects_the_first_is_found_but_the_last_has_the_best_anchor():
    anchors, truth = strip((0, 10), (0, 8)), strip((0, 10), (0, 10))
    assert assign(anchors, truth) == assign(anchors, truth, pairs_at_once=1) == [1, 0]


def test_only_valid_anchors_are_claimed():
    anchors, truth = strip((0, 10), (0, 4), (20, 30)), strip((0, 10))
    assert assign(anchors, truth) == [0, -2, -1]
    assert assign(anchors, truth, valid=[False, True, True]) == [-2, 0, -1]


def test_an_object_that_overlaps_no_anchor_claims_none():
    anchors = strip((0, 10), (20, 30))
    assert assign(anchors, strip((50, 60))) == [-1, -1]
    assert assign(anchors, strip((50, 60), (0, 10))) == [1, -1]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), objects=st.integers(0, 10))
def test_positives_are_those_of_detectron2(seed, objects):
    """So are their objects, unless an anchor is the best of some object."""
    priors = priors_of([(10, 12), (5, 6), (3, 3)], (8, 16, 32), side=4)
    truth, classes = random_objects(objects, 80, 96, seed)
    found = IoUAssigner()(priors, everywhere(priors), truth, classes).gt_index
    iou = pairwise_iou(Boxes(truth), Boxes(priors.boxes))
    matcher = Matcher([0.4, 0.5], [0, -1, 1], allow_low_quality_matches=True)
    matched, labels = matcher(iou[(iou > 0).any(dim=1)])
    assert torch.equal(found >= 0, labels == 1)
    assert torch.equal(found == -1, labels == 0)
    claimed = ((iou == iou.amax(dim=1, keepdim=True)) & (iou > 0)).any(dim=0)
    own = (found >= 0) & ~claimed
    if own.any():
        assert torch.equal(iou[found[own], own], iou.amax(dim=0)[own])
        overlapping = torch.nonzero((iou > 0).any(dim=1))[:, 0]
        assert torch.equal(found[own], overlapping[matched[own]])
