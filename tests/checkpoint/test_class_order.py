"""Where rows of classes go that begin with the background, by hand."""

import pytest
import torch

from htd.checkpoint.formats.class_order import (
    background_box_last,
    background_last,
    without_background,
    without_background_box,
)

# Two classes: the tens are the class, 0 is the background, the units the row of its box.
SCORES, BOXES = [0, 10, 20], [0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23]


@pytest.mark.parametrize("columns", [(), (2,), (2, 1, 1)])
@pytest.mark.parametrize(
    ("transform", "published", "ours"),
    [
        (background_last, SCORES, [10, 20, 0]),
        (background_last, [0, 10], [10, 0]),
        (background_box_last, BOXES, [10, 11, 12, 13, 20, 21, 22, 23, 0, 1, 2, 3]),
        (background_box_last, [5, 6, 7, 8], [5, 6, 7, 8]),
        (without_background, SCORES, [10, 20]),
        (without_background, [7], [7]),
        (without_background_box, BOXES, [10, 11, 12, 13, 20, 21, 22, 23]),
        (without_background_box, [5, 6, 7, 8], [5, 6, 7, 8]),
    ],
)
def test_rows(transform, published, ours, columns):
    def rows(values):
        return torch.tensor(values).view(-1, *(1 for _ in columns)).expand(-1, *columns)

    assert torch.equal(transform(rows(published)), rows(ours))


@pytest.mark.parametrize("transform", [without_background, without_background_box])
def test_rows_that_are_left_out_are_not_kept_in_memory(transform):
    assert transform(torch.zeros(12, 3)).untyped_storage().nbytes() < 12 * 3 * 4
