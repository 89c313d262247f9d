"""The weighted gather, its transpose, the table of feature rows, and boxes sampled at displaced cells."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torchvision.ops import deform_conv2d as torchvision_deform_conv2d

from htd.layers import FeatureTable, repair_boxes, sample_coordinates, sampling
from htd.layers.sampling import prefers_gather, scatter_rows_, weighted_gather
from tests.recorded import close, random_input, tensors


def gather(rows, index, weight):
    """Return sums (R, C) of rows (M, C) with given numbers and weights (R, K), all in one piece."""

    def rule(piece, weight):
        return index[piece, None], weight[piece, None]

    return weighted_gather(rows, [torch.arange(len(index))], rule, (len(index), 1), weight)[:, 0]


def test_gather_by_hand():
    rows = torch.tensor([[1.0, 10], [2, 20], [4, 40]])
    index = torch.tensor([[0, 2], [1, 1], [2, 0]])
    weight = torch.tensor([[1.0, 0.5], [0.25, 0.75], [0, -1]])
    assert gather(rows, index, weight).tolist() == [[3, 30], [2, 20], [-1, -10]]


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
    assert gradcheck(lambda r, w: gather(r, index, w), (rows, weight))
    assert gradcheck(lambda r: gather(r, index, weight.detach()), (rows,))
    assert gradcheck(lambda w: gather(rows.detach(), index, w), (weight,))


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (1, 1)])
def test_few_positions(shape):
    rows = torch.ones(2, 3, requires_grad=True)
    weight = torch.ones(shape, requires_grad=True)
    out = gather(rows, torch.zeros(shape, dtype=torch.int64), weight)
    assert out.shape == (shape[0], 3)
    out.sum().backward()
    assert rows.grad.sum() == 3 * weight.numel()
    assert weight.grad.shape == shape


def test_rows_that_are_not_contiguous():
    torch.manual_seed(0)
    rows = torch.randn(3, 5, dtype=torch.float64).T.requires_grad_()
    index, weight = torch.randint(0, 5, (4, 2)), torch.randn(2, 4, dtype=torch.float64).T
    expected = (rows[index] * weight[..., None]).sum(dim=1)
    torch.testing.assert_close(gather(rows, index, weight), expected)
    assert gradcheck(lambda r: gather(r, index, weight), (rows,))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), sums=st.sampled_from([1, 7, 2**20]))
def test_pieces_equal_the_whole(seed, sums):
    """Pieces in any order, results that no piece names, and gradients written in small blocks."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(9, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    index = torch.randint(0, 9, (6, 2, 3), generator=generator)
    weight = torch.randn(6, 2, 3, generator=generator, dtype=torch.float64)
    chosen = torch.randperm(6, generator=generator)[:4]
    out = weighted_gather(rows, chosen.split([3, 1]), lambda piece: (index[piece], weight[piece]), (6, 2))
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
    table = FeatureTable(maps, [4, 8, 16])
    image, level = torch.tensor([0, 1, 1, 0, 1]), torch.tensor([0, 0, 1, 2, 2])
    first, size = table.locate(image, level)
    assert size.tolist() == [[4, 5], [4, 5], [2, 3], [1, 1], [1, 1]]
    for i, m, (height, width), start in zip(image, level, size.tolist(), first.tolist(), strict=True):
        cells = table.rows[start : start + height * width]
        assert torch.equal(cells, maps[m][i].flatten(1).T)


def test_table_makes_its_rows_once_and_late():
    maps = [torch.ones(1, 2, 3, 3, requires_grad=True)]
    table = FeatureTable(maps, [4])
    assert table._rows is None
    with torch.no_grad():
        assert not table.rows.requires_grad
    assert table.rows.requires_grad, "rows of an evaluation must not cut a later training step from its maps"
    assert table.rows is table.rows
    (table.rows.sum() + 2 * table.rows.sum()).backward()
    assert (maps[0].grad == 3).all()


@pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated")
def test_traced_graphs_get_the_operators_of_torchvision():
    seen = []
    torch.jit.trace(lambda x: seen.append(prefers_gather(x)) or x + 1, torch.ones(1), check_trace=False)
    assert seen == [False]
    assert prefers_gather(torch.ones(1))
    assert not prefers_gather(torch.ones(1, device="meta"))


def by_torchvision(boxes, offsets):
    return torchvision_deform_conv2d(boxes, offsets, boxes.new_ones(4, 1, 1, 1))


def random_case(seed, batch, height, width, scale=2.0):
    """Return float64 boxes and offsets, some of them whole numbers, some far away."""
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.randn(batch, 4, height, width, generator=generator, dtype=torch.float64)
    offsets = scale * torch.randn(batch, 8, height, width, generator=generator, dtype=torch.float64)
    pick = torch.rand(offsets.shape, generator=generator)
    offsets = torch.where(pick < 0.2, offsets.round(), torch.where(pick > 0.95, 20 * offsets, offsets))
    return boxes.requires_grad_(), offsets.requires_grad_()


def test_equals_published_sampling():
    case, seed = tensors("tood", "deform_sampling"), 21
    boxes = (5 * random_input("deform_box", (2, 4, 7, 9), seed)).requires_grad_()
    offsets = (2 * random_input("deform_offset", (2, 8, 7, 9), seed)).requires_grad_()
    sampled = sample_coordinates(boxes, offsets)
    sampled.backward(random_input("deform_grad", sampled.shape, seed))
    close(sampled, case["sampled"], atol=1e-4)
    close(boxes.grad, case["grad_box"], atol=1e-5)
    close(offsets.grad, case["grad_offset"], atol=2e-4)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 6), st.integers(1, 7))
def test_sampled_boxes_equal_torchvision(seed, batch, height, width):
    boxes, offsets = random_case(seed, batch, height, width)
    found, wanted = sample_coordinates(boxes, offsets), by_torchvision(boxes, offsets)
    close(found, wanted, atol=1e-12)
    for ours, theirs in zip(
        *(torch.autograd.grad(out.sin().sum(), (boxes, offsets)) for out in (found, wanted)), strict=True
    ):
        close(ours, theirs, atol=1e-10)


def test_no_offset_changes_nothing():
    boxes = torch.randn(2, 4, 5, 3)
    assert torch.equal(sample_coordinates(boxes, torch.zeros(2, 8, 5, 3)), boxes)


def test_sampled_boxes_by_hand():
    """Four maps of 2 x 2, all of 0..3 row by row; only the upper left cell is moved."""
    boxes = torch.arange(4.0).view(1, 1, 2, 2).expand(1, 4, 2, 2)
    offsets = torch.zeros(1, 8, 2, 2)
    moves = [(0, 0.5), (1, 0.25), (0.5, 0.5), (1.5, 1)]  # (y, x)
    offsets[0, :, 0, 0] = torch.tensor(moves).flatten()
    sampled = sample_coordinates(boxes, offsets)
    # The last lies half a cell below the map: half of its cell, 3, and half of zero.
    close(sampled[0, :, 0, 0], torch.tensor([0.5, 2.25, 1.5, 1.5]), atol=0)
    assert torch.equal(sampled[0, :, 1], boxes[0, :, 1])


def test_gradients_of_sampled_boxes():
    generator = torch.Generator().manual_seed(0)
    boxes = torch.randn(1, 4, 3, 4, generator=generator, dtype=torch.float64).requires_grad_()
    # Away from whole numbers, where the derivative jumps.
    offsets = torch.randint(-3, 4, (1, 8, 3, 4), generator=generator) + 0.1
    offsets = offsets + 0.8 * torch.rand(offsets.shape, generator=generator, dtype=torch.float64)
    assert gradcheck(sample_coordinates, (boxes, offsets.requires_grad_()))


@pytest.mark.parametrize("offset", [1e9, -1e9, 3e38, -3e38, float("inf"), -float("inf")])
def test_samples_far_outside_are_zero_without_gradient(offset):
    boxes = torch.randn(1, 4, 3, 4).requires_grad_()
    offsets = torch.full((1, 8, 3, 4), offset).requires_grad_()
    sampled = sample_coordinates(boxes, offsets)
    sampled.sum().backward()
    assert not sampled.any()
    assert not boxes.grad.any()
    assert not offsets.grad.any()


def test_an_offset_that_is_nan_spoils_its_own_coordinate_only():
    boxes, offsets = torch.randn(1, 4, 3, 4), torch.zeros(1, 8, 3, 4)
    offsets[0, 2, 1, 1] = float("nan")
    sampled = sample_coordinates(boxes, offsets)
    expected = boxes.clone()
    expected[0, 1, 1, 1] = float("nan")
    close(sampled, expected, atol=0)


def test_half_precision_samples_in_float32():
    """Under autocast too: offsets beyond 256 cells would move in steps of a quarter."""
    boxes = 1000 * torch.rand(1, 4, 2, 300)
    offsets = 0.125 * torch.ones(1, 8, 2, 300)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = sample_coordinates(boxes, offsets.bfloat16())
    assert found.dtype == torch.float32
    close(found, by_torchvision(boxes, offsets), atol=1e-3)


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0)])
def test_no_boxes_to_sample(shape):
    batch, height, width = shape
    boxes = torch.zeros(batch, 4, height, width, requires_grad=True)
    sample_coordinates(boxes, torch.zeros(batch, 8, height, width)).sum().backward()
    assert boxes.grad.shape == boxes.shape


def test_boxes_inside_out_are_repaired_as_a_whole():
    sampled = torch.tensor(
        [[0.0, 0, 4, 4], [5, 0, 4, 4], [0, 5, 4, 4], [4, 4, 4, 4], [-1, -9, -2, 9]], requires_grad=True
    )
    original = torch.full_like(sampled, 7).requires_grad_()
    as_map = [t.T[None, :, None] for t in (sampled, original)]  # five boxes side by side
    repaired = repair_boxes(*as_map)
    # An empty box is no box inside out.
    replaced = torch.tensor([False, True, True, False, True])[:, None]
    assert torch.equal(repaired[0, :, 0].T, torch.where(replaced, original, sampled))
    repaired.sum().backward()
    assert torch.equal(original.grad, replaced.float().expand(5, 4))
    assert torch.equal(sampled.grad, 1 - original.grad)
