"""Task alignment: the assigner against the recorded arrays, and which criterion trains in which phase."""

import copy
import math

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from htd.modeling.dense.assigners import Predicted
from htd.modeling.tood import TwoPhaseCriterion
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


class Part(nn.Module):
    """Returns its name and what it was called with."""

    def __init__(self, name):
        super().__init__()
        self.name = name

    def forward(self, *args, **kwargs):
        return self.name, args, kwargs


def phases(**switch):
    return TwoPhaseCriterion(initial=Part("initial"), aligned=Part("aligned"), **switch)


def at(iteration, part):
    part.set_iteration(iteration)
    return part()[0]


def test_the_switch_is_the_first_aligned_iteration():
    part = phases(switch_iter=5)
    assert [at(k, part) for k in (0, 4, 5, 6, 4)] == ["initial", "initial", "aligned", "aligned", "initial"]
    part.set_iteration(5)
    assert part.aligned_now
    assert part(1, named=2) == ("aligned", (1,), {"named": 2})


@pytest.mark.parametrize("switch", [{"switch_iter": 0}, {"switch_epochs": 0}, {"switch_epochs": 0.0}])
def test_zero_is_aligned_from_the_start_wherever_it_is_called(switch):
    assert phases(**switch)()[0] == "aligned"
    assert at(0, phases(**switch)) == "aligned"


def test_without_the_hook_the_event_storage_says_the_iteration():
    part = phases(switch_iter=5)
    for start, name in ((0, "initial"), (4, "initial"), (5, "aligned")):
        with EventStorage(start):
            assert part()[0] == name
    with EventStorage(4) as storage:
        storage.step()
        assert part()[0] == "aligned"
        part.set_iteration(4)  # wins over the storage
        assert part()[0] == "initial"


def test_an_unknown_iteration_is_refused():
    with pytest.raises(ValueError, match="set_iteration"):
        phases(switch_iter=5)()


def test_epochs_become_iterations():
    part = phases(switch_epochs=4)
    part.set_iteration(0)
    with pytest.raises(ValueError, match="switch_epochs"):
        part()
    part.begin_training(0, 100, 7330)
    assert (part.switch_iter, at(29319, part), at(29320, part)) == (29320, "initial", "aligned")
    part.begin_training(0, 100, 10)  # another training, of other data
    assert (part.switch_iter, at(39, part), at(40, part)) == (40, "initial", "aligned")
    half = phases(switch_epochs=0.5)
    half.begin_training(0, 100, 7)
    assert half.switch_iter == round(3.5)


def test_given_iterations_stay_as_they_are():
    part = phases(switch_iter=5)
    part.begin_training(0, 100, 7330)
    assert part.switch_iter == 5


@pytest.mark.parametrize(
    "switch",
    [
        {},
        {"switch_iter": 5, "switch_epochs": 4},
        {"switch_iter": -1},
        {"switch_epochs": -0.5},
        {"switch_epochs": math.inf},
        {"switch_epochs": math.nan},
    ],
)
def test_switches_that_make_no_sense_are_refused(switch):
    with pytest.raises(ValueError, match="switch"):
        phases(**switch)


def test_nothing_of_it_is_in_the_weights():
    plain = nn.ModuleDict({"head": nn.Linear(2, 3)})
    phased = nn.ModuleDict({"head": nn.Linear(2, 3), "criterion": phases(switch_epochs=4)})
    before = copy.deepcopy(phased.state_dict())
    phased["criterion"].begin_training(0, 100, 10)
    phased["criterion"].set_iteration(99)
    assert phased["criterion"].aligned_now
    assert list(phased.state_dict()) == list(before) == list(plain.state_dict())
    assert not [*phased["criterion"].parameters(), *phased["criterion"].buffers()]
    phased.load_state_dict(plain.state_dict(), strict=True)
    plain.load_state_dict(phased.state_dict(), strict=True)
