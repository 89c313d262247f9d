"""RoIAlign by hand, and against torchvision, forward and backward; also with averaged sub-bins."""

import importlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.nn.functional import avg_pool2d
from torchvision.ops import roi_align as torchvision_roi_align

from htd.layers import FeatureTable, roi_align
from htd.layers.roi_align import bilinear_cells, list_cells, merge_cells
from tests.recorded import close

MODULE = importlib.import_module("htd.layers.roi_align")  # the name in the package is the function
STRIDES = (4, 10)


def pyramid(generator, dtype=torch.float64, channels=3):
    """Return two maps of two images; one of them is not contiguous."""
    fine = torch.randn(2, 9, channels, 12, generator=generator, dtype=dtype).transpose(1, 2)
    coarse = torch.randn(2, channels, 4, 5, generator=generator, dtype=dtype)
    return [fine.requires_grad_(), coarse.requires_grad_()]


def random_regions(generator, count, dtype=torch.float64):
    """Return boxes on quarter pixels, within, across and outside of 36 x 48 images, some without area."""
    corner = torch.randint(-80, 220, (count, 2), generator=generator) / 4
    side = torch.randint(-12, 240, (count, 2), generator=generator) / 4
    boxes = torch.cat([corner, corner + side], dim=1).to(dtype)
    boxes[::5, 2] = boxes[::5, 0]
    image, level = torch.randint(0, 2, (2, count), generator=generator)
    return boxes, image, level


def by_torchvision(maps, boxes, image, level, output_size, sampling_ratio, aligned):
    rois = torch.cat([image[:, None].to(boxes.dtype), boxes], dim=1)
    pooled = [
        torchvision_roi_align(m, rois, output_size, 1 / stride, sampling_ratio, aligned)
        for m, stride in zip(maps, STRIDES, strict=True)
    ]
    return torch.where((level == 0)[:, None, None, None], *pooled)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 12),
    output_size=st.sampled_from([1, 3, 7]),
    sampling_ratio=st.integers(0, 3),
    aligned=st.booleans(),
    at_once=st.sampled_from([1, 200, 2**18]),
    kind=st.sampled_from([(torch.float64, 1e-12), (torch.float32, 1e-5)]),
)
def test_equals_torchvision(seed, count, output_size, sampling_ratio, aligned, at_once, kind):
    generator = torch.Generator().manual_seed(seed)
    dtype, tolerance = kind
    maps, regions = pyramid(generator, dtype), random_regions(generator, count, dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MODULE, "_CELLS_AT_ONCE", at_once)
        found = roi_align(
            FeatureTable(maps, STRIDES),
            *regions,
            output_size=output_size,
            sampling_ratio=sampling_ratio,
            aligned=aligned,
        )
    expected = by_torchvision(maps, *regions, output_size, sampling_ratio, aligned)
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
    grad = torch.randn(found.shape, generator=generator, dtype=dtype)
    found_grads = torch.autograd.grad(found, maps, grad, retain_graph=True)
    for ours, theirs in zip(found_grads, torch.autograd.grad(expected, maps, grad), strict=True):
        torch.testing.assert_close(ours, theirs, atol=10 * tolerance, rtol=10 * tolerance)


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_both_implementations_agree(monkeypatch, sampling_ratio):
    generator = torch.Generator().manual_seed(0)
    maps, regions = pyramid(generator), random_regions(generator, 9)
    results = []
    for gather in (True, False):
        monkeypatch.setattr(MODULE, "prefers_gather", lambda _, gather=gather: gather)
        table = FeatureTable(maps, STRIDES)
        out = roi_align(table, *regions, output_size=3, sampling_ratio=sampling_ratio)
        assert (table._rows is not None) == gather
        results.append((out, *torch.autograd.grad(out.square().sum(), maps)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("aligned", [True, False])
def test_every_device_equals_torchvision_on_a_cpu(device, sampling_ratio, aligned):
    generator = torch.Generator().manual_seed(0)
    maps, regions = pyramid(generator, torch.float32), random_regions(generator, 30, torch.float32)
    expected = by_torchvision(maps, *regions, 7, sampling_ratio, aligned)
    there = [m.detach().to(device).requires_grad_() for m in maps]
    found = roi_align(
        FeatureTable(there, STRIDES),
        *(t.to(device) for t in regions),
        output_size=7,
        sampling_ratio=sampling_ratio,
        aligned=aligned,
    )
    close(found, expected, 1e-5)
    grad = torch.randn(expected.shape, generator=generator)
    found_grads = torch.autograd.grad(found, there, grad.to(device))
    for ours, theirs in zip(found_grads, torch.autograd.grad(expected, maps, grad), strict=True):
        close(ours, theirs, 1e-4)


@pytest.mark.parametrize("aligned", [True, False])
def test_a_ramp_gives_the_middles_of_the_bins(aligned):
    # Cell i of the ramp holds i. Pixels 8 to 24 are cells 2 to 6 of stride 4; two bins have their middles at
    # 3 and 5. Aligned, cell i stands for the place i + 0.5.
    ramp = torch.arange(10.0).expand(1, 1, 10, 10)
    table = FeatureTable([ramp], [4])
    box, zero = torch.tensor([[8.0, 8, 24, 24]]), torch.zeros(1, dtype=torch.int64)
    for sampling_ratio in (0, 1, 2):
        out = roi_align(table, box, zero, zero, output_size=2, sampling_ratio=sampling_ratio, aligned=aligned)
        expected = torch.tensor([3.0, 5]) - (0.5 if aligned else 0)
        torch.testing.assert_close(out, expected.expand(1, 1, 2, 2))


def test_cells_by_hand():
    # -1 is read as the outermost cell; at 3, the last cell, no upper neighbor is left; 4.1 is too far out.
    low, lower, upper = bilinear_cells(torch.tensor([-1.1, -1, 0.25, 2.5, 3, 4, 4.1]), torch.tensor(4))
    assert low.tolist() == [0, 0, 0, 2, 3, 3, 0]
    assert lower.tolist() == [0, 1, 0.75, 0.5, 1, 1, 0]
    assert upper.tolist() == [0, 0, 0.25, 0.5, 0, 0, 0]


def test_merged_cells_by_hand():
    low, upper = torch.tensor([2, 2, 3]), torch.tensor([0.25, 0.75, 0.5])
    cell, weight = merge_cells(low, 1 - upper, upper, 4)
    assert cell.tolist() == [2, 3, 4, 5]
    assert weight.tolist() == [1, 1.5, 0.5, 0]
    cell, weight = list_cells(low, 1 - upper, upper, 6)
    assert cell.tolist() == [2, 3, 2, 3, 3, 4]
    assert weight.tolist() == [0.75, 0.25, 0.25, 0.75, 0.5, 0.5]


def test_pieces_are_bounded_and_complete():
    torch.manual_seed(0)
    cells = torch.randint(0, 300, (500, 2))
    pieces = MODULE.plan_pieces(cells, 7)
    assert torch.cat(pieces).sort()[0].tolist() == (cells > 0).all(dim=1).nonzero()[:, 0].tolist()
    for piece in pieces:
        assert len(piece) == 1 or 49 * len(piece) * cells[piece].amax(dim=0).prod() <= 2**18


def test_no_regions_and_regions_without_area():
    maps = [torch.ones(1, 2, 4, 4, requires_grad=True)]
    table = FeatureTable(maps, [4])
    boxes = torch.tensor([[3.0, 3, 3, 9], [3, 3, 9, 3], [torch.nan, 0, 4, 4], [0, 0, torch.inf, 4]])
    index = torch.zeros(4, dtype=torch.int64)
    assert not roi_align(table, boxes, index, index, output_size=7).any()
    for sampling_ratio in (0, 2):
        out = roi_align(table, boxes[:0], index[:0], index[:0], output_size=7, sampling_ratio=sampling_ratio)
        assert out.shape == (0, 2, 7, 7)
        assert not torch.autograd.grad(out.sum(), maps)[0].any()


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_one_region_equals_itself_among_others(sampling_ratio):
    generator = torch.Generator().manual_seed(0)
    maps, regions = pyramid(generator, torch.float32), random_regions(generator, 20, torch.float32)
    table = FeatureTable(maps, STRIDES)
    together = roi_align(table, *regions, output_size=7, sampling_ratio=sampling_ratio)
    for i in range(20):
        alone = roi_align(
            table, *(t[i : i + 1] for t in regions), output_size=7, sampling_ratio=sampling_ratio
        )
        torch.testing.assert_close(alone[0], together[i])


def test_gradients_numerically_and_none_for_boxes():
    generator = torch.Generator().manual_seed(0)
    maps, (boxes, image, level) = pyramid(generator, channels=1), random_regions(generator, 4)
    boxes.requires_grad_()

    def pool(*maps):
        table = FeatureTable(maps, STRIDES)
        return roi_align(table, boxes, image, level, output_size=2)

    assert gradcheck(pool, maps)
    assert torch.autograd.grad(pool(*maps).sum(), boxes, allow_unused=True) == (None,)


def test_poolings_of_one_table_add_up_their_gradients():
    generator = torch.Generator().manual_seed(0)
    maps, regions = pyramid(generator), random_regions(generator, 6)
    table = FeatureTable(maps, STRIDES)
    pooled = [roi_align(table, *regions, output_size=size) for size in (2, 7)]
    together = torch.autograd.grad(sum(p.square().sum() for p in pooled), maps)
    alone = []
    for size in (2, 7):
        out = roi_align(FeatureTable(maps, STRIDES), *regions, output_size=size)
        alone.append(torch.autograd.grad(out.square().sum(), maps))
    for total, *parts in zip(together, *alone, strict=True):
        torch.testing.assert_close(total, sum(parts))


@pytest.mark.parametrize("gather", [True, False])
def test_autocast_computes_in_float32(monkeypatch, gather):
    monkeypatch.setattr(MODULE, "prefers_gather", lambda _: gather)
    generator = torch.Generator().manual_seed(0)
    maps = [m.detach().bfloat16() for m in pyramid(generator)]
    regions = random_regions(generator, 8, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = roi_align(FeatureTable(maps, STRIDES), *regions, output_size=7)
    assert out.dtype == torch.bfloat16
    expected = roi_align(FeatureTable([m.float() for m in maps], STRIDES), *regions, output_size=7)
    assert torch.equal(out, expected.bfloat16())


@pytest.mark.parametrize("gather", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sub_bins", [1, 2, 3])
def test_sub_bins_are_averaged(monkeypatch, gather, sampling_ratio, aligned, sub_bins):
    """Equal to pooling S * sub_bins bins a side, then averaging each sub_bins x sub_bins of them."""
    monkeypatch.setattr(MODULE, "prefers_gather", lambda _: gather)
    generator = torch.Generator().manual_seed(0)
    maps, (boxes, image, level) = pyramid(generator), random_regions(generator, 30)
    boxes += 0.1 * torch.rand(boxes.shape, generator=generator)  # no sample exactly on a limit
    found = roi_align(
        FeatureTable(maps, STRIDES),
        boxes,
        image,
        level,
        output_size=3,
        sampling_ratio=sampling_ratio,
        aligned=aligned,
        sub_bins=sub_bins,
    )
    fine = by_torchvision(maps, boxes, image, level, 3 * sub_bins, sampling_ratio, aligned)
    expected = avg_pool2d(fine, sub_bins)
    assert found.shape == (30, 3, 3, 3)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
    grad = torch.randn(found.shape, generator=generator, dtype=found.dtype)
    found_grads = torch.autograd.grad(found, maps, grad, retain_graph=True)
    for ours, theirs in zip(found_grads, torch.autograd.grad(expected, maps, grad), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("gather", [True, False])
def test_sub_bins_of_no_regions_and_under_autocast(monkeypatch, gather):
    monkeypatch.setattr(MODULE, "prefers_gather", lambda _: gather)
    generator = torch.Generator().manual_seed(0)
    maps = [m.detach().float().requires_grad_() for m in pyramid(generator)]
    regions = random_regions(generator, 8, torch.float32)
    table = FeatureTable(maps, STRIDES)
    none = roi_align(table, *(t[:0] for t in regions), output_size=7, sub_bins=2)
    assert none.shape == (0, 3, 7, 7)
    assert not any(g.any() for g in torch.autograd.grad(none.sum(), maps))
    expected = roi_align(table, *regions, output_size=7, sub_bins=2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(roi_align(table, *regions, output_size=7, sub_bins=2), expected)


@pytest.mark.parametrize("gather", [True, False])
def test_pooled_values_are_not_kept_for_the_backward_pass(monkeypatch, gather):
    """The gradients need the regions, not the features; a stage of HTC pools hundreds of megabytes."""
    monkeypatch.setattr(MODULE, "prefers_gather", lambda _: gather)
    generator = torch.Generator().manual_seed(0)
    maps = pyramid(generator)
    floats = 0

    def count(tensor):
        nonlocal floats
        floats += tensor.numel() * tensor.is_floating_point()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        regions = random_regions(generator, 200)
        pooled = roi_align(FeatureTable(maps, STRIDES), *regions, output_size=7, sub_bins=2)
    assert floats < pooled.numel()
