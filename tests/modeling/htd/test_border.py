"""Borders of pooled maps by hand."""

import pytest
import torch

from htd.modeling.htd import BorderTerm, ReplaceBorderFusion
from htd.modeling.htd.border_aware import halve_border


def ones(side=5):
    return torch.ones(1, 1, side, side)


def keep_border(x, edge):
    return BorderTerm(edge=edge)(x[None])


def drop_border(x, edge):
    return ReplaceBorderFusion(edge=edge, alpha=0)(x, x)


def test_keep_and_drop_share_out_the_cells():
    ring = torch.tensor(
        [[1, 1, 1, 1, 1], [1, 0, 0, 0, 1], [1, 0, 0, 0, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1.0]]
    )
    assert torch.equal(keep_border(ones(), 1)[0, 0], ring)
    assert torch.equal(drop_border(ones(), 1)[0, 0], 1 - ring)


@pytest.mark.parametrize(("edge", "kept"), [(0, 0), (1, 24), (3, 48), (4, 49)])
def test_number_of_border_cells_of_seven(edge, kept):
    x = ones(7)
    assert keep_border(x, edge).sum() == kept
    assert drop_border(x, edge).sum() == 49 - kept
    assert x.sum() == 49


def test_halved_border_of_one_cell():
    expected = torch.full((5, 5), 0.5)
    expected[1:-1, 1:-1] = 1
    assert torch.equal(halve_border(ones(), 1)[0, 0], expected)


def test_halved_border_of_two_cells_doubles_only_the_outermost_corner():
    found = halve_border(ones(6), 2)[0, 0]
    assert torch.equal(found[0], torch.tensor([0.5, 0.25, 0.5, 0.5, 0.25, 0.5]))
    assert torch.equal(found[1], torch.tensor([0.25, 0.25, 0.5, 0.5, 0.25, 0.25]))
    assert torch.equal(found[2], torch.tensor([0.5, 0.5, 1, 1, 0.5, 0.5]))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 3), (2, 2)])
def test_coinciding_corners_are_doubled_once(height, width):
    """Corners are halved as row and as column and doubled; what is between them is halved as a row."""
    found = halve_border(torch.ones(1, 1, height, width), 1)[0, 0]
    assert torch.equal(found, torch.full((height, width), 0.5))


@pytest.mark.parametrize("operation", [keep_border, drop_border, halve_border])
def test_gradients(operation):
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: operation(v, 1), x)
