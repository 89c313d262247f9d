"""Graph operations by hand."""

import math

import pytest
import torch

from htd.modeling.htd.graph import overlap_mask, semantic_attention, spatial_aggregation

# The first two overlap; the third touches the second's edge only; the last has no area.
BOXES = torch.tensor([[0.0, 0, 4, 4], [2, 2, 6, 6], [6, 2, 8, 6], [1, 1, 1, 3]])
MASK = torch.tensor([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def test_overlap_needs_area_except_on_the_diagonal():
    assert torch.equal(overlap_mask(BOXES), MASK)
    assert overlap_mask(BOXES[:0]).shape == (0, 0)


@pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated:FutureWarning")
def test_overlap_can_be_traced():
    traced = torch.jit.trace(overlap_mask, BOXES[:2])
    assert torch.equal(traced(BOXES), MASK)


def test_double_precision_stays_and_half_precision_does_not():
    for given, computed in ((torch.float64, torch.float64), (torch.bfloat16, torch.float32)):
        semantics = torch.ones(2, 3, dtype=given)
        assert semantic_attention(torch.eye(2, dtype=computed), semantics).dtype == computed


def test_spatial_aggregation_scales_rows_and_columns():
    # A path of three: degrees 2, 3, 2.
    mask = torch.tensor([[1.0, 1, 0], [1, 1, 1], [0, 1, 1]], dtype=torch.float64)
    found = spatial_aggregation(mask, torch.eye(3, dtype=torch.float64))
    side = 1 / math.sqrt(6)
    expected = [[1 / 2, side, 0], [side, 1 / 3, side], [0, side, 1 / 2]]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_masked_pairs_keep_the_weight_of_logit_zero():
    semantics = torch.tensor([[1.0], [2.0], [3.0]])
    mask = torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 1]])
    found = semantic_attention(mask, semantics)
    first = torch.tensor([1, 1, math.exp(3)])
    last = torch.tensor([math.exp(3), math.exp(6), 1])
    torch.testing.assert_close(found[0], first / first.sum())
    torch.testing.assert_close(found[2], last / last.sum())


def test_attention_is_in_full_precision_under_autocast():
    semantics = torch.full((2, 1), 30.03)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = semantic_attention(torch.eye(2), semantics * torch.tensor([[1.0], [-1.0]]))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.sum(dim=1), torch.ones(2))


@pytest.mark.parametrize("count", [0, 1, 5])
def test_gradients(count):
    generator = torch.Generator().manual_seed(count)
    x = torch.randn(count, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    corners = torch.rand(count, 2, generator=generator) * 3
    mask = overlap_mask(torch.cat([corners, corners + 1], dim=1)).double()
    if count:
        assert torch.autograd.gradcheck(lambda v: spatial_aggregation(mask, v), x)
        assert torch.autograd.gradcheck(lambda v: semantic_attention(mask, v), x)
    else:
        assert semantic_attention(mask, x).shape == (0, 0)
