"""Pooling with offsets: published arrays, the rule written out, hand numbers, gradients and properties."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from htd.layers import AlignedRegions, FeatureTable, RoundedRegions, offset_roi_pool, roi_align
from tests.layers.offset_pooling import (
    STRIDES,
    one_map,
    pool,
    pyramid,
    random_offsets,
    random_regions,
    written_out,
)
from tests.recorded import close, extents, random_input, tensors

SEED, BINS, SAMPLES, SHIFT_FACTOR = 3, 7, 4, 0.1
OUTPUT_TOLERANCE, GRADIENT_TOLERANCE = 1e-4, 3e-4
# Name of the case -> shape of the map, its stride, factor of the drawn offsets.
CASES = {
    "inside": ((2, 8, 30, 40), 4, 1.0),
    "border": ((2, 8, 14, 18), 16, 1.5),
    "half": ((1, 8, 16, 20), 8, 1.0),
}


@dataclass
class Case:
    """A map, the regions, and what the published operator gave."""

    name: str
    features: Tensor
    stride: int
    factor: float
    arrays: dict[str, Tensor]

    @property
    def boxes(self) -> Tensor:
        return extents(self.arrays["rois"][:, 1:])

    def draw(self, kind: str, *shape: int) -> Tensor:
        return random_input(f"pool.{self.name}.{kind}", (len(self.boxes), *shape), SEED)

    def raw_offsets(self, kind: str) -> Tensor:
        """Return the predictions ``c`` (R, 98) for bins or ``r`` (R, 2) for boxes."""
        return self.draw(f"delta_{kind}", 2 * BINS**2 if kind == "c" else 2) * self.factor

    def offsets(self, raw: Tensor) -> Tensor:
        """Return predictions as fractions of the boxes' sizes, in the shape that the operator wants."""
        shape = (2,) if raw.shape[1] == 2 else (2, BINS, BINS)
        return raw.unflatten(1, shape) * SHIFT_FACTOR

    def pool(self, features: Tensor, offsets: Tensor) -> Tensor:
        image = self.arrays["rois"][:, 0].long().to(features.device)
        return offset_roi_pool(
            FeatureTable([features], [self.stride]),
            self.boxes.to(features.device),
            image,
            torch.zeros_like(image),
            offsets,
            output_size=BINS,
            regions=RoundedRegions(),
            samples=SAMPLES,
        )


@pytest.fixture(scope="module", params=CASES)
def case(request):
    shape, stride, factor = CASES[request.param]
    features = random_input(f"pool.{request.param}.feat", shape, SEED)
    return Case(request.param, features, stride, factor, tensors("tsd", f"pool_{request.param}"))


@pytest.mark.parametrize("kind", ["c", "r"])
def test_outputs_and_gradients(case, kind, device):
    features = case.features.to(device, copy=True).requires_grad_()
    raw = case.raw_offsets(kind).to(device, copy=True).requires_grad_()
    out = case.pool(features, case.offsets(raw))
    close(out, case.arrays[f"out_{kind}"], OUTPUT_TOLERANCE)
    out.backward(case.draw(f"grad_{kind}", *out.shape[1:]).to(device))
    close(features.grad, case.arrays[f"grad_feat_{kind}"], GRADIENT_TOLERANCE)
    close(raw.grad, case.arrays[f"grad_delta_{kind}"], GRADIENT_TOLERANCE)


# Of the case "border" the published operator without offsets was not recorded.
@pytest.mark.parametrize("case", ["inside", "half"], indirect=True)
@pytest.mark.parametrize("shape", [(2,), (2, BINS, BINS)])
def test_no_offsets(case, device, shape):
    """Zeros for whole boxes and for bins are the published operator without offsets."""
    features = case.features.to(device, copy=True).requires_grad_()
    out = case.pool(features, torch.zeros(len(case.boxes), *shape, device=device))
    close(out, case.arrays["out_plain"], OUTPUT_TOLERANCE)
    out.backward(case.draw("grad_c", *out.shape[1:]).to(device))
    close(features.grad, case.arrays["grad_feat_plain"], GRADIENT_TOLERANCE)


@pytest.mark.parametrize("kind", ["c", "r"])
def test_samples_that_count(case, kind):
    rule, limit = RoundedRegions(), torch.tensor(case.features.shape[-2:])
    start, size = rule.extent(case.boxes, torch.full((len(case.boxes),), 1 / case.stride))
    offsets = case.offsets(case.raw_offsets(kind)).flip(1)
    number = torch.stack(torch.meshgrid(torch.arange(BINS), torch.arange(BINS), indexing="ij"))
    offsets = offsets if offsets.dim() == 4 else offsets[:, :, None, None]
    # In bins, then in cells: (R, 2, S, S, n) by (y, x).
    place = number[..., None] + (torch.arange(SAMPLES) + rule.phase) / SAMPLES
    start, size = start.view(-1, 2, 1, 1, 1), size.view(-1, 2, 1, 1, 1)
    position = start + place * size / BINS + offsets[..., None] * size
    _, lower, upper = rule.read(position, limit.view(2, 1, 1, 1))
    counts = (lower + upper > 0).sum(dim=-1).prod(dim=1)
    assert torch.equal(counts.float(), case.arrays[f"count_{kind}"])
    if case.name == "border":
        assert (counts == 0).any()
        assert ((counts > 0) & (counts < SAMPLES**2)).any()


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
        ((2.5, 3.5, 6.5, 7.5), (3, 4, 7, 8)),  # halves go up, even neighbors or not
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
    table = FeatureTable([torch.zeros(1, 1, 8, 8)], [4])
    box, first = torch.tensor([[0.0, 0, 20, 20]]), torch.tensor([0])
    with pytest.raises(ValueError, match="offsets"):
        offset_roi_pool(table, box, first, first, torch.zeros(shape), output_size=7, regions=ALIGNED)


RULES = pytest.mark.parametrize("rule", [RoundedRegions(), AlignedRegions()], ids=["rounded", "aligned"])
SHAPES = pytest.mark.parametrize("shape", [(), (7, 7)], ids=["boxes", "bins"])


def inputs(seed=0, count=12, shape=(7, 7), dtype=torch.float32, channels=3):
    """Return two maps, regions, and offsets."""
    generator = torch.Generator().manual_seed(seed)
    maps = pyramid(generator, dtype, channels)
    regions = random_regions(generator, count, dtype)
    return maps, regions, random_offsets(generator, count, *shape, dtype=dtype)


def rows(regions, chosen):
    return [t[chosen] for t in regions]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 5),
    output_size=st.integers(1, 3),
    samples=st.integers(1, 4),
)
def test_equals_the_published_rule_written_out(seed, count, output_size, samples):
    maps, regions, offsets = inputs(seed, count, (output_size, output_size), torch.float64)
    sizes = {"output_size": output_size, "samples": samples}
    found = pool(maps, regions, offsets, RoundedRegions(), **sizes)
    expected = written_out(maps, regions, offsets, **sizes)
    torch.testing.assert_close(found, expected)
    grad = torch.randn_like(found)
    wanted = [*maps, offsets]
    # Where no sample counts, the result written out does not depend on the input.
    theirs = torch.autograd.grad((expected * grad).sum() + 0 * sum(t.sum() for t in wanted), wanted)
    for ours, other in zip(torch.autograd.grad(found, wanted, grad), theirs, strict=True):
        torch.testing.assert_close(ours, other)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), samples=st.integers(1, 5), output_size=st.sampled_from([1, 3, 7]))
def test_aligned_regions_without_offsets_are_roi_align(seed, samples, output_size):
    maps, regions, _ = inputs(seed, dtype=torch.float64)
    found = pool(
        maps, regions, regions[0].new_zeros(12, 2), AlignedRegions(), output_size=output_size, samples=samples
    )
    table = FeatureTable(maps, STRIDES)
    expected = roi_align(table, *regions, output_size=output_size, sampling_ratio=samples, aligned=True)
    torch.testing.assert_close(found, expected)
    grad = torch.randn_like(found)
    for ours, other in zip(*(torch.autograd.grad(out, maps, grad) for out in (found, expected)), strict=True):
        torch.testing.assert_close(ours, other)


def test_aligned_regions_with_exchanged_corners_are_roi_align():
    maps, (boxes, *places), _ = inputs(dtype=torch.float64)
    exchanged = boxes[:, [2, 3, 0, 1]]
    found = pool(maps, (exchanged, *places), boxes.new_zeros(12, 2), AlignedRegions(), output_size=2)
    table = FeatureTable(maps, STRIDES)
    torch.testing.assert_close(found, roi_align(table, exchanged, *places, output_size=2, sampling_ratio=4))


def test_aligned_regions_are_moved_boxes():
    """One offset for the whole box is RoIAlign of the box moved by it."""
    maps, (boxes, *places), offsets = inputs(shape=(), dtype=torch.float64)
    found = pool(maps, (boxes, *places), offsets, AlignedRegions())
    moved = boxes + (offsets * (boxes[:, 2:] - boxes[:, :2])).repeat(1, 2)
    table = FeatureTable(maps, STRIDES)
    torch.testing.assert_close(found, roi_align(table, moved, *places, output_size=7, sampling_ratio=4))


@RULES
def test_one_offset_is_the_same_offset_for_every_bin(rule):
    maps, regions, offsets = inputs(shape=(), dtype=torch.float64)
    grads = []
    for given_offsets in (offsets, offsets[:, :, None, None].expand(-1, -1, 7, 7)):
        out = pool(maps, regions, given_offsets, rule)
        grads.append((out, *torch.autograd.grad(out.square().sum(), [*maps, offsets])))
    for ours, other in zip(*grads, strict=True):
        torch.testing.assert_close(ours, other)


@RULES
@SHAPES
def test_gradients_numerically_and_none_for_boxes(rule, shape):
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(1, 1, *size, generator=generator, dtype=torch.float64) for size in ((5, 6), (2, 3))]
    # Within, across the border, larger than the map; nothing lies near a kink.
    boxes = torch.tensor([[3.3, 2.1, 17.9, 15.2], [-4.2, 1.3, 9.1, 22.7], [-3.2, -8.3, 31.4, 18.8]]).double()
    image, level = torch.tensor([0, 0, 0]), torch.tensor([0, 0, 1])
    boxes.requires_grad_()

    def function(*maps_and_offsets):
        *maps, offsets = maps_and_offsets
        return pool(maps, (boxes, image, level), offsets, rule, output_size=2)

    given_inputs = [m.requires_grad_() for m in maps] + [random_offsets(generator, 3, *[2 for _ in shape])]
    assert gradcheck(function, given_inputs)
    assert torch.autograd.grad(function(*given_inputs).sum(), boxes, allow_unused=True) == (None,)


@RULES
@SHAPES
def test_permuted_regions_permute_the_result(rule, shape):
    maps, regions, offsets = inputs(count=40, shape=shape)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    found = pool(maps, rows(regions, order), offsets[order], rule)
    # The same region may be computed beside others, whose longer list of cells is then its own, too.
    close(found, pool(maps, regions, offsets, rule)[order], 1e-5)


@RULES
def test_a_batch_equals_its_images_one_by_one(rule):
    maps, regions, offsets = inputs(count=40)
    together = pool(maps, regions, offsets, rule)
    for image in (0, 1):
        chosen = (regions[1] == image).nonzero()[:, 0]
        boxes, _, level = rows(regions, chosen)
        alone = [m[image : image + 1] for m in maps]
        found = pool(alone, (boxes, torch.zeros_like(level), level), offsets[chosen], rule)
        close(found, together[chosen], 1e-5)


@RULES
@SHAPES
def test_no_regions(rule, shape):
    maps, regions, offsets = inputs(shape=shape)
    chosen = torch.zeros(0, dtype=torch.int64)
    out = pool(maps, rows(regions, chosen), offsets[chosen], rule)
    assert out.shape == (0, 3, 7, 7)
    for grad in torch.autograd.grad(out.sum(), [*maps, offsets]):
        assert not grad.any()


@RULES
@pytest.mark.parametrize(
    "box",
    [
        [500.0, 500, 600, 600],
        [-600, 3, -500, 30],
        [1e6, 1e6, 1e7, 1e7],
        [float("nan"), 0, 20, 20],
        [0, 0, float("inf"), 20],
    ],
)
def test_regions_outside_of_the_map_give_zeros(rule, box):
    maps, (_, image, level), offsets = inputs(count=2)
    out = pool(maps, (torch.tensor([box] * 2), image, level), offsets, rule)
    assert not out.any()
    for grad in torch.autograd.grad(out.sum(), [*maps, offsets]):
        assert not grad.any()


@RULES
@SHAPES
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e30])
def test_offsets_that_lead_nowhere(rule, shape, value):
    """Broken offsets break their own regions alone: nothing is read outside of the maps."""
    maps, regions, offsets = inputs(shape=shape)
    broken = offsets.detach().clone()
    broken[3:5] = value
    out = pool(maps, regions, broken.requires_grad_(), rule)
    fine = [i for i in range(12) if i not in (3, 4)]
    close(out[fine], pool(maps, regions, offsets, rule)[fine], 1e-5)
    assert not out[3:5].any()
    grads = torch.autograd.grad(out[fine].sum(), [*maps, broken])
    assert all(g.isfinite().all() for g in (*grads[:2], grads[2][fine]))


@RULES
def test_boxes_narrower_than_a_pixel(rule):
    maps, (boxes, image, level), offsets = inputs(dtype=torch.float64)
    boxes[:, 2:] = boxes[:, :2] + 0.01
    out = pool(maps, (boxes, image, level), offsets, rule)
    assert out.isfinite().all()
    assert out.any()


@RULES
def test_maps_that_are_not_contiguous(rule):
    maps, regions, offsets = inputs()
    assert not maps[0].is_contiguous()
    wide = offsets.detach().transpose(2, 3).contiguous().transpose(2, 3)
    found = pool(maps, regions, wide, rule)
    assert torch.equal(found, pool([m.contiguous() for m in maps], regions, offsets, rule))


@RULES
@SHAPES
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_computed_in_float32(rule, shape, dtype):
    maps, regions, offsets = inputs(shape=shape)
    low = [m.detach().to(dtype).requires_grad_() for m in maps]
    with torch.autocast("cpu", torch.bfloat16):
        out = pool(low, regions, offsets, rule)
    assert out.dtype == dtype
    full = [m.detach().float().requires_grad_() for m in low]
    expected = pool(full, regions, offsets, rule)
    assert torch.equal(out, expected.to(dtype))
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = torch.autograd.grad(out, [*low, offsets], grad)
    wanted = torch.autograd.grad(expected, [*full, offsets], grad.float())
    for ours, other in zip(found, wanted, strict=True):
        close(ours.float(), other.to(ours.dtype).float(), 1e-5)


@RULES
def test_poolings_of_one_table_add_up_their_gradients(rule):
    maps, regions, offsets = inputs(shape=(), dtype=torch.float64)
    settings = {"regions": rule, "samples": 4}
    shared = FeatureTable(maps, STRIDES)

    def poolings(tables):
        plain = roi_align(next(tables), *regions, output_size=7).square().sum()
        displaced = [
            offset_roi_pool(next(tables), *regions, offsets, output_size=s, **settings) for s in (2, 7)
        ]
        return plain + sum(out.square().sum() for out in displaced)

    wanted = [*maps, offsets]
    together = torch.autograd.grad(poolings(iter([shared] * 3)), wanted)
    apart = torch.autograd.grad(poolings(FeatureTable(maps, STRIDES) for _ in range(3)), wanted)
    for ours, other in zip(together, apart, strict=True):
        torch.testing.assert_close(ours, other)


@RULES
@SHAPES
def test_devices_agree(rule, shape, device):
    maps, regions, offsets = inputs(count=60, shape=shape)
    expected = pool(maps, regions, offsets, rule)
    wanted = torch.autograd.grad(expected.square().sum(), [*maps, offsets])
    there = [t.detach().to(device).requires_grad_() for t in (*maps, offsets)]
    found = pool(there[:2], [t.to(device) for t in regions], there[2], rule)
    close(found, expected, 1e-5)
    for ours, other in zip(torch.autograd.grad(found.square().sum(), there), wanted, strict=True):
        close(ours, other, 1e-4, 1e-4)
