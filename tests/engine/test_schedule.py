"""Learning-rate schedules against hand numbers."""

import pytest
import torch
from detectron2.solver import LRMultiplier

from htd.engine.solver import warmup_cosine, warmup_multistep
from htd.errors import UserError


def test_step_schedule_has_the_published_rates():
    # 12 epochs of 1000 iterations: warm-up from 0.001 over 500, decays after epochs 8 and 11.
    schedule = warmup_multistep(max_iter=12000, milestones=[8 / 12, 11 / 12])
    at = {0: 0.001, 250: 0.5005, 500: 1.0, 7999: 1.0, 8000: 0.1, 10999: 0.1, 11000: 0.01, 12000: 0.01}
    assert {i: schedule(i / 12000) for i in at} == pytest.approx(at)


def test_cosine_schedule():
    schedule = warmup_cosine(max_iter=100, end_value=0.2, warmup_iters=0)
    assert [schedule(w) for w in (0, 0.5, 1)] == pytest.approx([1, 0.6, 0.2])


def test_training_shorter_than_its_warm_up_stays_on_the_ramp():
    schedule = warmup_multistep(max_iter=20, milestones=[0.5], warmup_iters=500, warmup_factor=0)
    assert [schedule(i / 20) for i in (0, 5, 20)] == pytest.approx([0, 0.01, 0.1 * 0.04])


@pytest.mark.parametrize("milestones", [[60000, 80000], [0.9, 0.5], [0.0, 0.5], [0.5, 1.0]])
def test_milestones_that_are_no_fractions_are_refused(milestones):
    with pytest.raises(UserError, match="fractions of train.max_iter"):
        warmup_multistep(max_iter=90000, milestones=milestones)


def test_detectron2_multiplies_the_rate_by_the_schedule():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    multiplier = LRMultiplier(optimizer, warmup_multistep(max_iter=4, milestones=[0.5], warmup_iters=0), 4)
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        multiplier.step()
    assert rates == pytest.approx([2, 2, 0.2, 0.2])
