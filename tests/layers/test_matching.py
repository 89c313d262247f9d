"""Claims of ground truth on boxes, against the rule written as loops."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from htd.layers import last_claim

# Few different values, so that many boxes tie.
VALUES = torch.tensor([0.0, 0.2, 0.5, 0.6, 0.7, 1.0])


def random_iou(seed, num_gt, num_boxes):
    generator = torch.Generator().manual_seed(seed)
    return VALUES[torch.randint(0, len(VALUES), (num_gt, num_boxes), generator=generator)]


def claims_by_loops(iou, least_iou):
    """Objects in index order; each takes all boxes that attain its best IoU, also from others, if above 0."""
    claimed_by = [-1] * iou.shape[1]
    for g, row in enumerate(iou.tolist()):
        if row and max(row) >= least_iou and max(row) > 0:
            for r, value in enumerate(row):
                if value == max(row):
                    claimed_by[r] = g
    return claimed_by


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    num_gt=st.integers(0, 6),
    num_boxes=st.integers(0, 8),
    least_iou=st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]),
)
def test_equals_loops(seed, num_gt, num_boxes, least_iou):
    iou = random_iou(seed, num_gt, num_boxes)
    # The value as float32 holds it, as in the comparison of tensors.
    found = last_claim(iou, torch.tensor(least_iou).item())
    assert found.dtype == torch.int64
    assert found.tolist() == claims_by_loops(iou, torch.tensor(least_iou).item())


@pytest.mark.parametrize("shape, expected", [((0, 3), [-1, -1, -1]), ((2, 0), []), ((0, 0), [])])
def test_no_objects_and_no_boxes(shape, expected):
    assert last_claim(torch.zeros(shape), 0.5).tolist() == expected


def test_parts_of_the_objects_join_to_the_whole():
    iou = random_iou(0, 7, 9)
    parts = [last_claim(iou[start : start + 3], 0.5, first_index=start) for start in (0, 3, 6)]
    assert torch.equal(torch.stack(parts).max(dim=0).values, last_claim(iou, 0.5))


def test_a_threshold_is_met_by_equality():
    iou = torch.tensor([[0.5, 0.25]])
    assert last_claim(iou, 0.5).tolist() == [0, -1]
    assert last_claim(iou, 0.5001).tolist() == [-1, -1]
