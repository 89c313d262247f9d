"""The task-aligned assigner against the reference arrays: typical and crowded images, none, and ties."""

import pytest
import torch

from htd.modeling.dense.assigners import Predicted
from htd.modeling.tood.assigner import TaskAlignedAssigner
from tests.golden import close, tensors
from tests.modeling.dense.assigners import at_priors, everywhere, recorded_priors

CASES = [("assigners", "typical."), ("assigners", "empty."), ("assigners", "crowded."), ("assigner_ties", "")]


def assigned(name, prefix):
    """Return a case, what it is assigned, and the candidates."""
    case = tensors("tood", name)
    priors = recorded_priors(case)
    case |= {key.removeprefix(prefix): case[key] for key in case if prefix and key.startswith(prefix)}
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
    """Classes, 8 for background, and the column sums of the objects' boxes at the positives."""
    case, found, _ = assigned(name, prefix)
    positive = found.gt_index >= 0
    objects = found.gt_index[positive]
    assert case["gt_labels"][objects].tolist() == case["target_labels"][positive].tolist()
    assert set(case["target_labels"][~positive].tolist()) == {8}
    assert torch.equal(case["tal_labels"][positive], case["gt_labels"][objects])
    close(case["gt_boxes"][objects].sum(dim=0), case["target_boxes_sum"], atol=0, rtol=1e-6)


def test_equally_aligned_priors_all_belong_to_their_object():
    case, found, candidates = assigned("assigner_ties", "")
    equal = case["duplicate_anchor_index"].long()
    assert found.gt_index[equal].tolist() == [6, 6, 6]
    assert len(set(found.metric[equal].tolist())) == 1
    assert (candidates.alignment[6, :] > 0).sum() >= 3
