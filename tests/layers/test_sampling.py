"""The weighted gather, its transpose, and the table of feature rows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from htd.layers import FeatureTable, sampling, weighted_gather
from htd.layers.sampling import gather_in_pieces, prefers_gather, scatter_rows_


def test_gather_by_hand():
    rows = torch.tensor([[1.0, 10], [2, 20], [4, 40]])
    index = torch.tensor([[0, 2], [1, 1], [2, 0]])
    weight = torch.tensor([[1.0, 0.5], [0.25, 0.75], [0, -1]])
    assert weighted_gather(rows, index, weight).tolist() == [[3, 30], [2, 20], [-1, -10]]


def test_scatter_by_hand():
    index = torch.tensor([[0, 2], [2, 2]])
    weight = torch.tensor([[1.0, 2], [10, 100]])
    out = scatter_rows_(torch.ones(4, 1), torch.tensor([[1.0], [2]]), index, weight)
    assert out.tolist() == [[2], [1], [223], [1]]


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_gradients_of_rows_and_weights(dtype):
    torch.manual_seed(0)
    rows = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    index = torch.randint(0, 5, (6, 4)).to(dtype)
    assert gradcheck(lambda r, w: weighted_gather(r, index, w), (rows, weight))
    assert gradcheck(lambda r: weighted_gather(r, index, weight.detach()), (rows,))
    assert gradcheck(lambda w: weighted_gather(rows.detach(), index, w), (weight,))


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (1, 1)])
def test_few_positions(shape):
    rows = torch.ones(2, 3, requires_grad=True)
    weight = torch.ones(shape, requires_grad=True)
    out = weighted_gather(rows, torch.zeros(shape, dtype=torch.int64), weight)
    assert out.shape == (shape[0], 3)
    out.sum().backward()
    assert rows.grad.sum() == 3 * weight.numel()
    assert weight.grad.shape == shape


def test_rows_that_are_not_contiguous():
    torch.manual_seed(0)
    rows = torch.randn(3, 5, dtype=torch.float64).T.requires_grad_()
    index, weight = torch.randint(0, 5, (4, 2)), torch.randn(2, 4, dtype=torch.float64).T
    expected = (rows[index] * weight[..., None]).sum(dim=1)
    torch.testing.assert_close(weighted_gather(rows, index, weight), expected)
    assert gradcheck(lambda r: weighted_gather(r, index, weight), (rows,))


def test_autocast_computes_in_float32():
    torch.manual_seed(0)
    rows = torch.randn(50, 8).bfloat16()
    index, weight = torch.randint(0, 50, (20, 30)), torch.rand(20, 30)
    with torch.autocast("cpu", torch.bfloat16):
        out = weighted_gather(rows, index, weight)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, weighted_gather(rows.float(), index, weight).bfloat16())


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), sums=st.sampled_from([1, 7, 2**20]))
def test_pieces_equal_the_whole(seed, sums):
    """Pieces in any order, results that no piece names, and gradients written in small blocks."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(9, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    index = torch.randint(0, 9, (6, 2, 3), generator=generator)
    weight = torch.randn(6, 2, 3, generator=generator, dtype=torch.float64)
    chosen = torch.randperm(6, generator=generator)[:4]
    out = gather_in_pieces(rows, chosen.split([3, 1]), lambda piece: (index[piece], weight[piece]), (6, 2))
    named = torch.zeros(6, dtype=torch.float64).index_fill(0, chosen, 1)
    expected = (rows[index] * weight[..., None]).sum(dim=2) * named[:, None, None]
    torch.testing.assert_close(out, expected)
    grad = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "_SUMS_AT_ONCE", sums)
        (found,) = torch.autograd.grad(out, rows, grad)
    torch.testing.assert_close(found, torch.autograd.grad(expected, rows, grad)[0])


def test_table_finds_every_cell():
    maps = [torch.arange(2 * 3 * h * w).view(2, 3, h, w) + 1000.0 * h for h, w in ((4, 5), (2, 3), (1, 1))]
    table = FeatureTable.from_maps(maps, [4, 8, 16])
    image, level = torch.tensor([0, 1, 1, 0, 1]), torch.tensor([0, 0, 1, 2, 2])
    first, size = table.locate(image, level)
    assert size.tolist() == [[4, 5], [4, 5], [2, 3], [1, 1], [1, 1]]
    for i, m, (height, width), start in zip(image, level, size.tolist(), first.tolist(), strict=True):
        cells = table.rows[start : start + height * width]
        assert torch.equal(cells, maps[m][i].flatten(1).T)


def test_table_makes_its_rows_once_and_late():
    maps = [torch.ones(1, 2, 3, 3, requires_grad=True)]
    table = FeatureTable.from_maps(maps, [4])
    assert table._rows is None
    with torch.no_grad():
        assert not table.rows.requires_grad
    assert table.rows.requires_grad, "rows of an evaluation must not cut a later training step from its maps"
    assert table.rows is table.rows
    (table.rows.sum() + 2 * table.rows.sum()).backward()
    assert (maps[0].grad == 3).all()


def test_table_needs_a_stride_a_map():
    with pytest.raises(ValueError, match="1 maps, 2 strides"):
        FeatureTable.from_maps([torch.ones(1, 1, 1, 1)], [4, 8])


@pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated")
def test_traced_graphs_get_the_operators_of_torchvision():
    seen = []
    torch.jit.trace(lambda x: seen.append(prefers_gather(x)) or x + 1, torch.ones(1), check_trace=False)
    assert seen == [False]
    assert prefers_gather(torch.ones(1))
    assert not prefers_gather(torch.ones(1, device="meta"))
