"""Pooling with offsets: the published rule written out, RoIAlign, gradients, and properties."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from htd.layers import AlignedRegions, FeatureTable, RoundedRegions, offset_roi_pool, roi_align
from tests.layers.offset_pooling import STRIDES, pool, pyramid, random_offsets, random_regions, written_out
from tests.recorded import close

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
    table = FeatureTable.from_maps(maps, STRIDES)
    expected = roi_align(table, *regions, output_size=output_size, sampling_ratio=samples, aligned=True)
    torch.testing.assert_close(found, expected)
    grad = torch.randn_like(found)
    for ours, other in zip(*(torch.autograd.grad(out, maps, grad) for out in (found, expected)), strict=True):
        torch.testing.assert_close(ours, other)


def test_aligned_regions_with_exchanged_corners_are_roi_align():
    maps, (boxes, *places), _ = inputs(dtype=torch.float64)
    exchanged = boxes[:, [2, 3, 0, 1]]
    found = pool(maps, (exchanged, *places), boxes.new_zeros(12, 2), AlignedRegions(), output_size=2)
    table = FeatureTable.from_maps(maps, STRIDES)
    torch.testing.assert_close(found, roi_align(table, exchanged, *places, output_size=2, sampling_ratio=4))


def test_aligned_regions_are_moved_boxes():
    """One offset for the whole box is RoIAlign of the box moved by it."""
    maps, (boxes, *places), offsets = inputs(shape=(), dtype=torch.float64)
    found = pool(maps, (boxes, *places), offsets, AlignedRegions())
    moved = boxes + (offsets * (boxes[:, 2:] - boxes[:, :2])).repeat(1, 2)
    table = FeatureTable.from_maps(maps, STRIDES)
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
    shared = FeatureTable.from_maps(maps, STRIDES)

    def poolings(tables):
        plain = roi_align(next(tables), *regions, output_size=7).square().sum()
        displaced = [
            offset_roi_pool(next(tables), *regions, offsets, output_size=s, **settings) for s in (2, 7)
        ]
        return plain + sum(out.square().sum() for out in displaced)

    wanted = [*maps, offsets]
    together = torch.autograd.grad(poolings(iter([shared] * 3)), wanted)
    apart = torch.autograd.grad(poolings(FeatureTable.from_maps(maps, STRIDES) for _ in range(3)), wanted)
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
