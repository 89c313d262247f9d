"""Two phases of a criterion: which one is called, and that nothing of it is in the weights."""

import copy
import math

import pytest
from detectron2.utils.events import EventStorage
from torch import nn

from htd.modeling.tood import TwoPhaseCriterion


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
    part.resolve(7330)
    assert (part.switch_iter, at(29319, part), at(29320, part)) == (29320, "initial", "aligned")
    part.resolve(10)  # another training, of other data
    assert (part.switch_iter, at(39, part), at(40, part)) == (40, "initial", "aligned")
    half = phases(switch_epochs=0.5)
    half.resolve(7)
    assert half.switch_iter == round(3.5)


def test_given_iterations_stay_as_they_are():
    part = phases(switch_iter=5)
    part.resolve(7330)
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
    phased["criterion"].resolve(10)
    phased["criterion"].set_iteration(99)
    assert phased["criterion"].aligned_now
    assert list(phased.state_dict()) == list(before) == list(plain.state_dict())
    assert not [*phased["criterion"].parameters(), *phased["criterion"].buffers()]
    phased.load_state_dict(plain.state_dict(), strict=True)
    plain.load_state_dict(phased.state_dict(), strict=True)
