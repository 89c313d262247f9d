"""Deformable convolution by hand, and against torchvision's operator forward and backward."""

import importlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import gradcheck
from torch.nn import functional as F
from torchvision.ops import deform_conv2d as torchvision_deform_conv2d

from htd.layers import DeformConv2d, deform_conv2d
from htd.layers.deform_conv import tap_positions, zero_padded_cells
from tests.recorded import close

MODULE = importlib.import_module("htd.layers.deform_conv")


def random_case(generator, *, batch=2, groups=1, offset_groups=1, kernel=(3, 3), modulated=False, **geometry):
    """Return float64 arguments of a deformable convolution whose offsets lead up to 3 cells away."""

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    channels, size = 2 * groups * offset_groups, (6, 7)
    x, weight = draw(batch, channels, *size), draw(3 * groups, channels // groups, *kernel)
    out_size = F.conv2d(x[:, :1], weight[:1, :1], **geometry).shape[-2:]
    samples = offset_groups * kernel[0] * kernel[1]
    offset = draw(batch, 2 * samples, *out_size)
    # Whole numbers, where the derivative depends on which neighbor is the upper one, and far away places.
    pick = torch.rand(offset.shape, generator=generator)
    offset = torch.where(pick < 0.3, offset.round(), torch.where(pick > 0.95, 20 * offset, offset)).detach()
    mask = draw(batch, samples, *out_size).sigmoid().detach().requires_grad_() if modulated else None
    return {
        "input": x,
        "offset": offset.requires_grad_(),
        "weight": weight,
        "bias": draw(3 * groups),
        "mask": mask,
        **geometry,
    }


def gradients(function, case, seed=0):
    out = function(**case)
    inputs = [t for t in case.values() if isinstance(t, torch.Tensor)]
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed), dtype=out.dtype)
    return [out, *torch.autograd.grad(out, inputs, grad.to(out.device))]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    batch=st.integers(1, 3),
    groups=st.sampled_from([1, 2, 4]),
    offset_groups=st.sampled_from([1, 2]),
    kernel=st.sampled_from([(3, 3), (1, 1), (2, 3)]),
    modulated=st.booleans(),
    stride=st.sampled_from([1, 2, (2, 1)]),
    padding=st.sampled_from([0, 1, (1, 2)]),
    dilation=st.sampled_from([1, 2]),
    at_once=st.sampled_from([1, 300, 2**21]),
)
def test_equals_torchvision(seed, at_once, **settings):
    case = random_case(torch.Generator().manual_seed(seed), **settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MODULE, "_VALUES_AT_ONCE", at_once)
        found = gradients(deform_conv2d, case)
    for ours, theirs in zip(found, gradients(torchvision_deform_conv2d, case), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-10)


def test_float32_agrees():
    case = random_case(torch.Generator().manual_seed(0), modulated=True, padding=1)
    case = {k: v.detach().float().requires_grad_() if torch.is_tensor(v) else v for k, v in case.items()}
    pairs = zip(gradients(deform_conv2d, case), gradients(torchvision_deform_conv2d, case), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("modulated", [False, True])
def test_every_device_equals_torchvision_on_a_cpu(device, modulated):
    """In float32, with two weight groups and two offset groups: forward and all gradients."""
    case = random_case(
        torch.Generator().manual_seed(0), groups=2, offset_groups=2, modulated=modulated, padding=1
    )
    case = {k: v.detach().float().requires_grad_() if torch.is_tensor(v) else v for k, v in case.items()}
    there = {k: v.detach().to(device).requires_grad_() if torch.is_tensor(v) else v for k, v in case.items()}
    for found, wanted in zip(
        gradients(deform_conv2d, there), gradients(torchvision_deform_conv2d, case), strict=True
    ):
        close(found, wanted, 1e-4)


@pytest.mark.parametrize("modulated", [False, True])
def test_gradients_numerically(modulated):
    generator = torch.Generator().manual_seed(0)
    case = random_case(
        generator, batch=1, groups=2, offset_groups=2, modulated=modulated, padding=1, stride=3
    )
    # Away from whole numbers, where the function has a kink.
    case["offset"] = (case["offset"].detach().floor() + 0.4).requires_grad_()
    names = [name for name, value in case.items() if torch.is_tensor(value)]
    assert gradcheck(
        lambda *tensors: deform_conv2d(**{**case, **dict(zip(names, tensors, strict=True))}),
        [case[name] for name in names],
    )


def test_whole_offsets_shift_the_input_by_hand():
    x = torch.arange(12.0).view(1, 1, 3, 4)
    weight = torch.full((1, 1, 1, 1), 2.0)
    offset = torch.zeros(1, 2, 3, 4)
    offset[:, 0] = 1.0  # y
    offset[:, 1] = 0.5  # x
    out = deform_conv2d(x, offset, weight, torch.ones(1))
    # Row y reads row y + 1, half way to the right; beyond the map there is zero.
    expected = torch.tensor([[4.5, 5.5, 6.5, 3.5], [8.5, 9.5, 10.5, 5.5], [0, 0, 0, 0]]) * 2 + 1
    torch.testing.assert_close(out[0, 0], expected)


def test_rule_by_hand():
    place = torch.tensor([0, 5, 6])
    base = tap_positions(
        place, out_size=(2, 3), kernel=(1, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 3)
    )
    assert base.tolist() == [[[-1, 0], [-1, 3]], [[1, 2], [1, 5]], [[-1, 0], [-1, 3]]]
    position = torch.tensor([[0.25, 1.5], [-0.5, 0], [-9, 9], [1, 1]])
    cell, weight = zero_padded_cells(position, (2, 2))
    assert weight[0].tolist() == [0.375, 0, 0.125, 0]
    assert cell[0].tolist() == [1, 1, 3, 3]
    assert weight[1].tolist() == [0, 0, 0.5, 0]
    assert not weight[2].any()
    assert weight[3].tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("gather", [True, False])
def test_zero_offsets_are_the_ordinary_convolution(monkeypatch, gather):
    monkeypatch.setattr(MODULE, "prefers_gather", lambda _: gather)
    torch.manual_seed(0)
    plain = nn.Conv2d(8, 4, 3, stride=2, padding=1, groups=2, bias=True)
    layer = DeformConv2d(8, 4, 3, stride=2, padding=1, groups=2, bias=True, norm=nn.BatchNorm2d(4).eval())
    layer.norm.running_mean += 0.5
    layer.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(2, 6, 8, 9).transpose(1, 2)  # not contiguous
    out = layer(x, torch.zeros(2, 18, 3, 5))
    torch.testing.assert_close(out, layer.norm(plain(x)), atol=1e-5, rtol=1e-5)
    halved = layer(x, torch.zeros(2, 18, 3, 5), torch.full((2, 9, 3, 5), 0.5)) - layer.norm(plain(0 * x))
    torch.testing.assert_close(2 * halved, out - layer.norm(plain(0 * x)), atol=1e-5, rtol=1e-5)
    assert set(layer.state_dict()) >= {"weight", "bias", "norm.weight", "norm.running_mean"}


def test_no_images_and_later_changes_in_place():
    layer = DeformConv2d(2, 3, 1)
    assert layer.bias is None
    out = layer(torch.zeros(0, 2, 4, 5), torch.zeros(0, 2, 4, 5))
    assert out.shape == (0, 3, 4, 5)
    out.sum().backward()
    assert not layer.weight.grad.any()
    for size in (1, 4):
        x = torch.randn(1, 2, size, size)
        layer(x, torch.zeros(1, 2, size, size)).relu_().sum().backward()


def test_autocast_computes_in_float32():
    case = random_case(torch.Generator().manual_seed(0), modulated=True)
    case = {k: v.detach().bfloat16() if torch.is_tensor(v) else v for k, v in case.items()}
    with torch.autocast("cpu", torch.bfloat16):
        out = deform_conv2d(**case)
    assert out.dtype == torch.bfloat16
    single = {k: v.float() if torch.is_tensor(v) else v for k, v in case.items()}
    assert torch.equal(out, deform_conv2d(**single).bfloat16())


def test_offsets_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"maps of \(2, 2\), the offsets are \(4, 4\)"):
        deform_conv2d(torch.zeros(1, 1, 4, 4), torch.zeros(1, 18, 4, 4), torch.zeros(1, 1, 3, 3))
