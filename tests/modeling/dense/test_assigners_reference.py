"""ATSS against the reference arrays: typical and crowded images, none, and ties."""

import pytest
import torch

from htd.modeling.dense.assigners import ATSSAssigner
from tests.modeling.dense.assigners import at_priors, everywhere, matched_case, recorded_case
from tests.recorded import close

CASES = [
    *(("assigners", prefix) for prefix in ("typical.", "empty.", "crowded.")),
    *(("assigner_ties", prefix) for prefix in ("", "straddle.")),
]


def assigned(name, prefix):
    """Return a case, what ATSS makes of it, and its candidates."""
    case, priors = recorded_case(name, prefix)
    objects = everywhere(priors), case["gt_boxes"]
    assigner = ATSSAssigner()
    found = assigner(priors, *objects, case["gt_labels"].long())
    return case, found, assigner.candidates(priors, *objects)


@pytest.mark.parametrize("name, prefix", CASES[:-1])
def test_objects_of_anchors(name, prefix):
    case, found, candidates = assigned(name, prefix)
    assert found.gt_index.tolist() == (case["atss_gt_inds"] - 1).tolist()
    assert torch.equal(found.metric, (case["atss_gt_inds"] > 0).float())
    close(at_priors(candidates.iou, candidates, found.gt_index), case["atss_iou"], atol=1e-5)


@pytest.mark.parametrize("name, prefix", CASES[:-1])
def test_targets(name, prefix):
    """Classes, 8 for background, and the objects' boxes at the positives, elsewhere the anchors'."""
    case, found = matched_case(ATSSAssigner(), name, prefix)
    positive, labels = case["atss_gt_inds"] > 0, case["atss_labels"].long()
    assert torch.equal(found.positive[0], positive) and found.counted.all()
    assert torch.equal(found.gt_classes[0], torch.where(positive, labels, 8))
    wanted = case["anchors"].clone()
    wanted[positive] = case["gt_boxes"][case["atss_gt_inds"][positive] - 1]
    assert torch.equal(found.gt_boxes[0], wanted)


@pytest.mark.parametrize("name, prefix", CASES)
def test_thresholds_and_candidates(name, prefix):
    case, _, candidates = assigned(name, prefix)
    close(candidates.threshold, case["atss_threshold"], atol=1e-5)
    if len(case["gt_boxes"]):
        assert set(candidates.valid.sum(dim=1).tolist()) == {int(case["atss_num_candidates"])}


def test_equally_distant_anchors_at_the_last_rank():
    """Which of them are candidates is open; how many are positive and how good they are is not."""
    case, found, candidates = assigned("assigner_ties", "straddle.")
    iou = at_priors(candidates.iou, candidates, found.gt_index)
    for number, count in enumerate(case["atss_num_pos"].tolist()):
        own, recorded = found.gt_index == number, case["atss_gt_inds"] == number + 1
        assert own.sum() == count == recorded.sum()
        close(iou[own].sort().values, case["atss_iou"][recorded].sort().values, atol=1e-5)
