"""RoIAlign whose bins are means of smaller ones."""

import pytest
import torch
from torch.nn.functional import avg_pool2d

from htd.layers import FeatureTable, roi_align
from tests.layers.test_roi_align import MODULE, STRIDES, by_torchvision, pyramid, random_regions


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
        FeatureTable.from_maps(maps, STRIDES),
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
    table = FeatureTable.from_maps(maps, STRIDES)
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
        pooled = roi_align(FeatureTable.from_maps(maps, STRIDES), *regions, output_size=7, sub_bins=2)
    assert floats < pooled.numel()
