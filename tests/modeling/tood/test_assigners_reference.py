"""The task-aligned assigner against the reference arrays: typical and crowded images, none, and ties."""

import pytest
import torch

from htd.modeling.dense.assigners import Predicted
from htd.modeling.tood.task_alignment import TaskAlignedAssigner
from tests.modeling.dense.assigners import at_priors, everywhere, matched_case, recorded_case
from tests.recorded import close

CASES = [("assigners", "typical."), ("assigners", "empty."), ("assigners", "crowded."), ("assigner_ties", "")]


def assigned(name, prefix):
    """Return a case, what it is assigned, and the candidates."""
    case, priors = recorded_case(name, prefix)
    inputs = priors, everywhere(priors), case["gt_boxes"], case["gt_labels"].long()
    predicted = Predicted(case["pred_scores"], case["pred_boxes"])
    assigner = TaskAlignedAssigner()
    return case, assigner(*inputs, predicted), assigner.candidates(*inputs, predicted)


@pytest.mark.parametrize("name, prefix", CASES)
def test_objects_of_priors(name, prefix):
    case, found, _ = assigned(name, prefix)
    assert found.gt_index.tolist() == (case["tal_gt_inds"] - 1).tolist()
    close(found.metric, case["tal_norm_metric"], atol=1e-5)


@pytest.mark.parametrize("name, prefix", CASES)
def test_overlap_and_alignment(name, prefix):
    case, found, candidates = assigned(name, prefix)
    close(at_priors(candidates.iou, candidates, found.gt_index), case["tal_iou"], atol=1e-5)
    close(at_priors(candidates.alignment, candidates, found.gt_index), case["tal_metric"], atol=1e-5)


@pytest.mark.parametrize("name, prefix", CASES)
def test_targets(name, prefix):
    """Classes, 8 for background, and the sums of the objects' boxes at the positives."""
    case, found = matched_case(TaskAlignedAssigner(), name, prefix)
    assert torch.equal(found.gt_classes[0], case["target_labels"].long())
    assert torch.equal(found.positive[0], case["tal_gt_inds"] > 0) and found.counted.all()
    assert torch.equal(torch.where(found.positive[0], found.gt_classes[0], -1), case["tal_labels"].long())
    close(found.gt_boxes[found.positive].sum(dim=0), case["target_boxes_sum"], atol=0, rtol=1e-6)


def test_equally_aligned_priors_all_belong_to_their_object():
    case, found, candidates = assigned("assigner_ties", "")
    equal = case["duplicate_anchor_index"].long()
    assert found.gt_index[equal].tolist() == [6, 6, 6]
    assert len(set(found.metric[equal].tolist())) == 1
    assert (candidates.alignment[6, :] > 0).sum() >= 3
