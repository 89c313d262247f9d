"""Pooling with offsets by hand: rounding, borders, counts, and derivatives at the kinks."""

import pytest
import torch

from htd.errors import UserError
from htd.layers import AlignedRegions, FeatureTable, RoundedRegions, offset_roi_pool
from tests.layers.offset_pooling import one_map
from tests.recorded import extents

ROUNDED, ALIGNED = RoundedRegions(), AlignedRegions()
# Every row of the map counts its columns.
RAMP = torch.arange(8.0).expand(8, 8)


def box_of(x1, y1, x2, y2):
    """Return what a box covers that names its first and last pixels."""
    return extents(torch.tensor([x1, y1, x2, y2])).tolist()


def offset_of(x, y):
    return torch.tensor([[x, y]], requires_grad=True)


@pytest.mark.parametrize(
    ("pixels", "rounded"),
    [
        ((2.5, 3.5, 6.5, 7.5), (3, 4, 7, 8)),  # halves go up, even neighbours or not
        ((-0.5, -1.5, -0.4, 1.5), (-1, -2, 0, 2)),  # and below zero down
        ((0.49, 1.51, 4.49, 5.51), (0, 2, 4, 6)),
    ],
)
def test_corners_are_rounded_half_away_from_zero(pixels, rounded):
    start, size = ROUNDED.extent(torch.tensor([box_of(*pixels)]), torch.tensor([0.25]))
    x1, y1, x2, y2 = rounded
    assert start.tolist() == [[y1 / 4 - 0.5, x1 / 4 - 0.5]]
    assert size.tolist() == [[(y2 + 1 - y1) / 4, (x2 + 1 - x1) / 4]]


def test_regions_are_a_tenth_of_a_cell_at_least():
    # One pixel of a thirty-second of a cell; none; and corners that have changed places.
    for pixels in ((5, 5, 5, 5), (5, 5, 4, 4), (5, 5, 1, 2)):
        start, size = ROUNDED.extent(
            torch.tensor([box_of(*pixels)], dtype=torch.float32), torch.tensor([1 / 32])
        )
        assert start.tolist() == [[5 / 32 - 0.5] * 2]
        torch.testing.assert_close(size, torch.full((1, 2), 0.1))


def test_samples_at_the_borders():
    """Samples count from -0.5 to 3.5 of four cells, both included; they read the outermost cells at most."""
    position = torch.tensor([-0.501, -0.5, -0.25, 0, 1.25, 3, 3.5, 3.501])
    low, lower, upper = ROUNDED.read(position, torch.tensor(4))
    assert low[1:-1].tolist() == [0, 0, 0, 1, 3, 3]
    torch.testing.assert_close(6 * lower, torch.tensor([0, 1, 1, 1, 0.75, 1, 1, 0]))
    torch.testing.assert_close(6 * upper, torch.tensor([0, 0, 0, 0, 0.25, 0, 0, 0]))


@pytest.mark.parametrize("position", [[-0.6, -7.0], [3.6, 900.0], [float("nan"), float("inf")]])
def test_without_a_sample_that_counts_nothing_is_read(position):
    low, lower, upper = ROUNDED.read(torch.tensor(position), torch.tensor(4, dtype=torch.int32))
    assert not (lower.any() or upper.any())
    assert ((low >= 0) & (low < 4)).all()


@pytest.mark.parametrize(
    ("position", "slope"),
    [
        (1.25, 1),
        (2.999, 1),
        (1, 0),  # the cell above is the same cell there
        (0, 0),
        (3, 0),
        (-0.25, 0),  # read at 0 and at 3
        (3.5, 0),
        (-0.6, 0),
    ],
)
def test_weights_change_with_the_position(position, slope):
    position = torch.tensor([position], dtype=torch.float64, requires_grad=True)
    _, lower, upper = ROUNDED.read(position, torch.tensor(4))
    found = [torch.autograd.grad(weight, position, retain_graph=True)[0].item() for weight in (lower, upper)]
    assert found == [-slope, slope]


def test_samples_are_the_beginnings_of_the_parts():
    # Pixels 1 to 4 reach from 0.5 to 4.5, where cell i has its middle at i: samples at 0.5, 1.5, 2.5 and 3.5.
    offset = offset_of(0.0, 0.0)
    out = one_map(RAMP, box_of(1, 1, 4, 4), offset, ROUNDED, samples=4)
    assert out.item() == 2
    # A step of the offset is a step of four cells to the right; rows are all alike.
    assert torch.autograd.grad(out.sum(), offset)[0].tolist() == [[4, 0]]
    # Two bins of two samples each.
    out = one_map(RAMP, box_of(1, 1, 4, 4), offset, ROUNDED, output_size=2, samples=2)
    assert out.tolist() == [[1, 3]] * 2


def test_offsets_are_fractions_of_the_rounded_size():
    # Pixels 1.4 to 4.4 are read as 1 to 4. A quarter of four pixels to the right.
    assert one_map(RAMP, box_of(1.4, 1, 4.4, 4), offset_of(0.25, 0.5), ROUNDED, samples=4).item() == 3
    assert one_map(RAMP.T, box_of(1.4, 1, 4.4, 4), offset_of(0.5, 0.25), ROUNDED, samples=4).item() == 3


def test_offsets_of_bins_move_their_bins():
    offsets = torch.zeros(1, 2, 2, 2)
    offsets[0, 0, 0, 1] = 0.25  # x of the upper right bin
    offsets[0, 1, 1, 0] = -0.25  # y of the lower left one
    settings = {"output_size": 2, "samples": 2}
    assert one_map(RAMP, box_of(1, 1, 4, 4), offsets, ROUNDED, **settings).tolist() == [[1, 4], [1, 3]]
    assert one_map(RAMP.T, box_of(1, 1, 4, 4), offsets, ROUNDED, **settings).tolist() == [[1, 1], [2, 3]]


def test_whole_positions_have_no_slope():
    # Half a cell further all samples are on middles of cells.
    offset = offset_of(0.125, 0.0)
    out = one_map(RAMP, box_of(1, 1, 4, 4), offset, ROUNDED, samples=4)
    assert out.item() == 2.5
    assert not torch.autograd.grad(out.sum(), offset)[0].any()
    # Pixels 1 and 2: samples at 0.5, 1, 1.5 and 2. Half of them have a slope; the box is two cells wide.
    offset = offset_of(0.0, 0.0)
    out = one_map(RAMP, box_of(1, 1, 2, 2), offset, ROUNDED, samples=4)
    assert out.item() == 1.25
    assert torch.autograd.grad(out.sum(), offset)[0].tolist() == [[1, 0]]


def test_means_over_the_samples_that_count():
    # Pixels 5 to 8 of 8: samples at 4.5, 5.5, 6.5 and 7.5, the last read at 7. One pixel further the last is
    # at 8.5 and does not count, the one before it is at 7.5.
    offset = offset_of(0.0, 0.0)
    out = one_map(RAMP, box_of(5, 1, 8, 4), offset, ROUNDED, samples=4)
    assert out.item() == pytest.approx((4.5 + 5.5 + 6.5 + 7) / 4)
    assert torch.autograd.grad(out.sum(), offset)[0].tolist() == [[4 * 3 / 4, 0]]
    offset = offset_of(0.25, 0.0)
    out = one_map(RAMP, box_of(5, 1, 8, 4), offset, ROUNDED, samples=4)
    assert out.item() == pytest.approx((5.5 + 6.5 + 7) / 3)
    torch.testing.assert_close(torch.autograd.grad(out.sum(), offset)[0], torch.tensor([[4 * 2 / 3, 0]]))
    # Rows that do not count leave the mean as it is.
    out = one_map(RAMP, box_of(1, -3, 4, 0), offset_of(0.0, 0.0), ROUNDED, samples=4)
    assert out.item() == 2


def test_bins_without_a_sample_are_zero():
    features = torch.ones(8, 8, requires_grad=True)
    offset = offset_of(0.0, 0.0)
    # Pixels -4 to 3: the left half lies outside.
    out = one_map(features, box_of(-4, 0, 3, 7), offset, ROUNDED, output_size=2, samples=4)
    assert out.tolist() == [[0, 1]] * 2
    grad, grad_offset = torch.autograd.grad(out.sum(), [features, offset])
    assert grad.sum() == 2
    assert not grad_offset.any()


def test_stride():
    # Pixels 16 to 31 of stride 4: cells 3.5 to 7.5, samples at 3.5, 4.5, 5.5 and 6.5.
    offset = offset_of(0.0, 0.0)
    out = one_map(RAMP, box_of(16, 0, 31, 15), offset, ROUNDED, stride=4, samples=4)
    assert out.item() == 5
    assert torch.autograd.grad(out.sum(), offset)[0].tolist() == [[4, 0]]


def test_aligned_regions():
    # From 1.1 to 5.1, not rounded; the middle of cell i is at i + 0.5. Samples lie in the middles of parts.
    offset = offset_of(0.0, 0.0)
    out = one_map(RAMP, [1.1, 1, 5.1, 5], offset, ALIGNED, samples=4)
    assert out.item() == pytest.approx(2.6)
    torch.testing.assert_close(torch.autograd.grad(out.sum(), offset)[0], torch.tensor([[4.0, 0]]))
    assert one_map(RAMP, [1.1, 1, 5.1, 5], offset_of(0.25, 0.5), ALIGNED, samples=4).item() == pytest.approx(
        3.6
    )
    # Beyond one cell outside of the map samples are zeros, and count.
    ones = torch.ones(8, 8)
    assert one_map(ones, [-4, 0, 4, 8], offset, ALIGNED, samples=4).item() == pytest.approx(0.5)
    assert one_map(ones, [-0.5, 0, 3.5, 4], offset, ALIGNED, samples=4).item() == 1


@pytest.mark.parametrize("shape", [(1, 98), (3, 2), (1, 3), (1, 2, 7)])
def test_offsets_of_another_shape_are_refused(shape):
    table = FeatureTable.from_maps([torch.zeros(1, 1, 8, 8)], [4])
    box, first = torch.tensor([[0.0, 0, 20, 20]]), torch.tensor([0])
    with pytest.raises(UserError, match=r"1 boxes are pooled with offsets of \(.*give \(R, 2\) for boxes"):
        offset_roi_pool(table, box, first, first, torch.zeros(shape), output_size=7, regions=ALIGNED)
