"""Two thousand objects in an 800 x 1333 image are assigned within a bound of memory."""

from multiprocessing import get_context

import pytest
import torch

from htd.benchmark.measure import PeakMemory
from htd.modeling.dense.assigners import ATSSAssigner, FCOSAssigner, IoUAssigner
from htd.modeling.tood.task_alignment import TaskAlignedAssigner
from tests.modeling.dense.assigners import everywhere, priors_in, random_objects, random_predictions

OBJECTS, HEIGHT, WIDTH = 2000, 800, 1333
# Bytes; the assigners' base class states this bound. 262 MB is the most that was seen; a single number for
# each pair of object and prior would be 179 MB.
BOUND = 400e6


def peaks(kinds):
    """Return the bytes that memory has risen by at most in a call of each assigner."""
    torch.set_num_threads(1)
    priors = priors_in(HEIGHT, WIDTH)
    inputs = priors, everywhere(priors), *random_objects(OBJECTS, HEIGHT, WIDTH, 0, num_classes=80)
    predicted = random_predictions(priors, 0, num_classes=80)
    found = []
    for assigner in (kind() for kind in kinds):
        assigner(priors, inputs[1], inputs[2][:1], inputs[3][:1], predicted)  # loads what is loaded late
        peak = PeakMemory(torch.device("cpu"))
        assigner(*inputs, predicted)
        found.append(peak.bytes())
    return found


@pytest.mark.skipif(
    not PeakMemory(torch.device("cpu")).bytes() >= 0, reason="the resident set is known on Linux only"
)
@pytest.mark.parametrize(
    "kinds",
    [
        (ATSSAssigner, TaskAlignedAssigner),
        pytest.param((FCOSAssigner, IoUAssigner), marks=pytest.mark.slow),
    ],
)
def test_memory_of_2000_objects(kinds):
    with get_context("spawn").Pool(1) as pool:
        found = pool.apply(peaks, (kinds,))
    assert all(0 < peak < BOUND for peak in found), found
