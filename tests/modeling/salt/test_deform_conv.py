"""Both deformable convolutions of SALT-Net against the reference arrays, by the gather and by torchvision."""

import importlib

import pytest
import torch
from torch import nn

from htd.layers import DeformConv2d
from htd.modeling.backbones import OffsetPredictingConv2d
from tests.modeling.dense.recorded import check
from tests.recorded import random_input, tensors

SEED, IMAGES, CHANNELS, FILTERS, SIZE = 5, 2, 8, 12, (7, 9)


@pytest.fixture(scope="module")
def case():
    return tensors("salt", "deform_conv")


@pytest.fixture(autouse=True, params=[True, False], ids=["gather", "torchvision"])
def path(request, monkeypatch):
    """The way that samples are read."""
    module = importlib.import_module("htd.layers.deform_conv")
    monkeypatch.setattr(module, "prefers_gather", lambda _: request.param)


@pytest.fixture
def x(device):
    return random_input("x", (IMAGES, CHANNELS, *SIZE), SEED).to(device).requires_grad_()


def drawn(name, shape, factor):
    return nn.Parameter(factor * random_input(name, shape, SEED))


def recorded_offsets(device):
    """Offsets with whole numbers, and places far outside of the map."""
    offset = 2 * random_input("offset", (IMAGES, 18, *SIZE), SEED)
    offset[:, :, 0, 0] = 0
    offset[:, :, 0, 1] = offset[:, :, -1, -1] = 1
    offset[:, :, 1, 0] = -1
    offset[:, :, 2, 2] = 50
    return offset.to(device).requires_grad_()


def gradients(out, tensors):
    return torch.autograd.grad(out, tensors, random_input("grad_out", tuple(out.shape), SEED).to(out.device))


def test_plain(case, x, device):
    layer = DeformConv2d(CHANNELS, FILTERS, 3, padding=1)
    layer.weight = drawn("weight", layer.weight.shape, 0.2)
    layer.to(device)
    offset = recorded_offsets(device)
    out = layer(x, offset)
    check(out, case["v1_out"])
    of_x, of_offset, of_weight = gradients(out, [x, offset, layer.weight])
    check(of_x, case["v1_grad_x"])
    check(of_offset, case["v1_grad_offset"])
    check(of_weight, case["v1_grad_weight"])


def predicting(name, outputs, modulated, **settings):
    """A layer that predicts its offsets, with the recorded weights of the predictor."""
    ordinary = nn.Conv2d(CHANNELS, FILTERS, 3, padding=1, bias=False, **settings)
    layer = OffsetPredictingConv2d(ordinary, modulated=modulated)
    layer.offset.weight = drawn(f"{name}.weight", (outputs, CHANNELS, 3, 3), 0.3)
    layer.offset.bias = drawn(f"{name}.bias", (outputs,), 0.5)
    return layer


def test_modulated(case, x, device):
    layer = predicting("conv_offset", 27, modulated=True)
    layer.weight = drawn("weight", layer.weight.shape, 0.2)
    out = layer.to(device)(x)
    check(out, case["v2pack_out"])
    of_x, *of_parameters = gradients(out, [x, layer.weight, layer.offset.weight, layer.offset.bias])
    check(of_x, case["v2pack_grad_x"])
    names = ("weight", "conv_offset_weight", "conv_offset_bias")
    for name, found in zip(names, of_parameters, strict=True):
        check(found, case[f"v2pack_grad_{name}"])


def test_two_groups_and_a_stride(case, x, device):
    layer = predicting("conv_offset18", 18, modulated=False, stride=2, groups=2)
    layer.weight = drawn("weight_g", layer.weight.shape, 0.2)
    check(layer.to(device)(x), case["v1pack_s2g2_out"])
