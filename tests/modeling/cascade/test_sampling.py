"""Assignment and sampling of RoIs, by hand."""

import pytest
import torch
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, Instances
from hypothesis import given, settings
from hypothesis import strategies as st

from htd.modeling.cascade import ReassigningMatcher, RoILabeler, RoISampler
from tests.layers.test_boxes import matches_by_loops, random_iou

SIZE = (100, 100)
TRUTH = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40]])


def instances(**fields):
    return Instances(SIZE, **fields)


def target(boxes=TRUTH, classes=(3, 1)):
    return instances(gt_boxes=Boxes(boxes), gt_classes=torch.tensor(classes[: len(boxes)], dtype=torch.int64))


def matcher(iou=0.5):
    return Matcher([iou], [0, 1], allow_low_quality_matches=False)


def sampler(**settings):
    return RoISampler(matcher=matcher(), num_classes=5, **settings)


def proposals(rows):
    return instances(proposal_boxes=Boxes(torch.tensor(rows, dtype=torch.float32).view(-1, 4)))


def test_ground_truth_comes_first_and_positives_before_negatives():
    # IoU of the proposals with the truth: 0.5 exactly (positive), 0.49 (negative), 1 and 0.
    rows = [[0, 0, 10, 5], [0, 0, 10, 4.9], [20, 20, 40, 40], [60, 60, 80, 80]]
    (found,) = sampler()([proposals(rows)], [target()])
    assert found.gt_classes.tolist() == [3, 1, 3, 1, 5, 5]
    assert found.is_gt.tolist() == [True, True, False, False, False, False]
    expected = [*TRUTH.tolist(), rows[0], rows[2], rows[1], rows[3]]
    torch.testing.assert_close(found.proposal_boxes.tensor, torch.tensor(expected, dtype=torch.float32))
    torch.testing.assert_close(found.gt_boxes.tensor[:4], TRUTH[[0, 1, 0, 1]])
    assert (found.gt_boxes.tensor[4:] == 0).all()


def test_equal_ground_truth_boxes_keep_their_own_classes():
    twice = TRUTH[[0, 0]]
    (found,) = sampler()([proposals([])], [target(twice)])
    assert found.gt_classes.tolist() == [3, 1]


def test_counts_are_limited():
    torch.manual_seed(0)
    rows = [[0, 0, 10, 10]] * 20 + [[60, 60, 80, 80]] * 20
    (found,) = sampler(batch_size_per_image=8)([proposals(rows)], [target()])
    assert (found.gt_classes < 5).sum() == 2
    assert len(found) == 8
    # Too few negatives: the rest stays empty.
    (found,) = sampler(batch_size_per_image=8)([proposals(rows[:20])], [target()])
    assert len(found) == 2


def test_former_ground_truth_is_replaced():
    given = proposals([[0, 0, 9, 10], [60, 60, 80, 80]])
    given.is_gt = torch.tensor([True, False])
    (found,) = sampler()([given], [target()])
    assert found.is_gt.tolist() == [True, True, False]


@pytest.mark.parametrize("part", [sampler(), RoILabeler(matcher=matcher(), num_classes=5)])
def test_image_without_objects_or_proposals(part):
    empty = target(TRUTH[:0], ())
    (found,) = part([proposals([[0, 0, 10, 10]])], [empty])
    assert found.gt_classes.tolist() == [5]
    (found,) = part([proposals([])], [empty])
    assert len(found) == 0


def test_labeler_keeps_order_and_number():
    rows = [[60, 60, 80, 80], [0, 0, 10, 10], [61, 60, 80, 80]]
    (found,) = RoILabeler(matcher=matcher(), num_classes=5)([proposals(rows)], [target()])
    assert found.gt_classes.tolist() == [5, 3, 5]


def test_index_names_the_ground_truth():
    rows = [[60, 60, 80, 80], [20, 20, 40, 40], [0, 0, 10, 10]]
    (found,) = sampler()([proposals(rows)], [target()])
    assert found.gt_classes.tolist() == [3, 1, 1, 3, 5]
    assert found.gt_index[:4].tolist() == [0, 1, 1, 0]


def assignment_by_loops(iou, least_iou):
    """Index (-1 background) of each box: its best object, then objects in order take their best boxes."""
    columns = list(zip(*iou.tolist(), strict=True)) if len(iou) else [()] * iou.shape[1]
    assigned = [c.index(max(c)) if c and max(c) >= least_iou else -1 for c in columns]
    claims = matches_by_loops(iou, least_iou)
    return [best if claim < 0 else claim for best, claim in zip(assigned, claims, strict=True)]


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    num_gt=st.integers(0, 5),
    num_boxes=st.integers(0, 8),
    iou=st.sampled_from([0.5, 0.75]),
)
def test_reassigning_matcher_equals_loops(seed, num_gt, num_boxes, iou):
    overlaps = random_iou(seed, num_gt, num_boxes)
    index, label = ReassigningMatcher(iou=iou)(overlaps)
    found = torch.where(label == 1, index, -1)
    assert found.tolist() == assignment_by_loops(overlaps, iou)
    # It never makes a positive.
    assert torch.equal(label, matcher(iou)(overlaps)[1])


def test_reassigning_matcher_by_hand():
    """Box 0 fits object 0 best, but it is the best there is for object 1; object 2 reaches 0.4 only."""
    overlaps = torch.tensor([[0.9, 0.8, 0.0], [0.6, 0.5, 0.0], [0.0, 0.0, 0.4]])
    assert matcher()(overlaps)[0].tolist()[:2] == [0, 0]
    index, label = ReassigningMatcher(iou=0.5)(overlaps)
    assert index.tolist()[:2] == [1, 0]
    assert label.tolist() == [1, 1, 0]
    assert ReassigningMatcher(iou=0.7)(overlaps)[0].tolist()[:2] == [0, 0]
