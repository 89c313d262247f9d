"""Pasting masks into a large image takes little more memory than the result."""

import pytest
import torch

from benchmark_masks import paste_in_fresh_process, some_whole_images
from benchmark_measure import PeakMemory

SIZE = (2000, 3000)
BEYOND_THE_RESULT = 150e6  # bytes; docs/benchmarks.md states this bound


@pytest.mark.skipif(
    not PeakMemory(torch.device("cpu")).bytes() >= 0, reason="the resident set is known on Linux only"
)
def test_memory_of_100_masks_at_2000_by_3000():
    # One whole image at a time is the worst there is: more of them take longer, not more memory.
    _, result, peak = paste_in_fresh_process(some_whole_images, SIZE)
    assert result == 100 * 2000 * 3000
    assert result < peak < result + BEYOND_THE_RESULT
