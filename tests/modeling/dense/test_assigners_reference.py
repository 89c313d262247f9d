"""ATSS against the reference arrays: typical and crowded images, none, and ties."""

import pytest
import torch

from htd.modeling.dense.assigners import ATSSAssigner
from tests.golden import close, tensors
from tests.modeling.dense.assigners import at_priors, everywhere, recorded_priors

CASES = [
    *(("assigners", prefix) for prefix in ("typical.", "empty.", "crowded.")),
    *(("assigner_ties", prefix) for prefix in ("", "straddle.")),
]


def assigned(name, prefix):
    """Return a case, what ATSS makes of it, and its candidates."""
    case = tensors("tood", name)
    priors = recorded_priors(case)
    case |= {key.removeprefix(prefix): case[key] for key in case if prefix and key.startswith(prefix)}
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
def test_classes_of_anchors(name, prefix):
    case, found, _ = assigned(name, prefix)
    labels = case["gt_labels"][found.gt_index.clamp(min=0)] if len(case["gt_labels"]) else -1
    assert torch.equal(torch.where(found.gt_index >= 0, labels, -1), case["atss_labels"].long())


@pytest.mark.parametrize("name, prefix", CASES)
def test_thresholds_and_candidates(name, prefix):
    case, _, candidates = assigned(name, prefix)
    close(candidates.threshold, case["atss_threshold"], atol=1e-5)
    if len(case["gt_boxes"]):
        assert set(candidates.real.sum(dim=1).tolist()) == {int(case["atss_num_candidates"])}


def test_equally_distant_anchors_at_the_last_rank():
    """Which of them are candidates is open; how many are positive and how good they are is not."""
    case, found, candidates = assigned("assigner_ties", "straddle.")
    iou = at_priors(candidates.iou, candidates, found.gt_index)
    for number, count in enumerate(case["atss_num_pos"].tolist()):
        own, recorded = found.gt_index == number, case["atss_gt_inds"] == number + 1
        assert own.sum() == count == recorded.sum()
        close(iou[own].sort().values, case["atss_iou"][recorded].sort().values, atol=1e-5)
