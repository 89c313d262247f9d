"""Deformable convolution in a bottleneck block, and as a layer that any block or tower can call."""

import pytest
import torch
import torchvision
from detectron2.layers import Conv2d

from htd.layers.norms import FixedBatchNorm2d
from htd.modeling.backbones import DeformableBottleneckBlock, OffsetPredictingConv2d, build_resnet
from tests.modeling.backbones.conftest import SMALL


def block(**settings):
    """Return a block of 8 to 16 channels with a stride of two."""
    torch.manual_seed(0)
    return DeformableBottleneckBlock(
        8, 16, bottleneck_channels=8, stride=2, norm=FixedBatchNorm2d, num_groups=4, **settings
    )


@pytest.mark.parametrize(("modulated", "channels", "factor"), [(False, 18, 1.0), (True, 27, 0.5)])
def test_starts_as_the_ordinary_convolution(modulated, channels, factor):
    """Without offsets plain sampling is an ordinary convolution; masks of sigmoid(0) halve it."""
    layer = block(modulated=modulated)
    assert layer.conv2_offset.weight.shape == (channels, 8, 3, 3)
    assert not layer.conv2_offset.weight.any() and not layer.conv2_offset.bias.any()
    x = torch.randn(2, 8, 9, 7)
    hidden = layer.conv1(x).relu()
    ordinary = torch.nn.functional.conv2d(hidden, layer.conv2.weight, stride=2, padding=1, groups=4)
    wanted = layer.conv3(layer.conv2.norm(factor * ordinary).relu()) + layer.shortcut(x)
    torch.testing.assert_close(layer(x), wanted.relu(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("offset_groups", [1, 2])
@pytest.mark.parametrize("modulated", [False, True])
def test_offsets_and_masks_reach_the_operator(modulated, offset_groups):
    layer = block(modulated=modulated, offset_groups=offset_groups)
    offsets = 18 * offset_groups
    torch.nn.init.normal_(layer.conv2_offset.weight, std=0.2)
    torch.nn.init.normal_(layer.conv2_offset.bias)
    x = torch.randn(2, 8, 9, 7)
    hidden = layer.conv1(x).relu()
    prediction = layer.conv2_offset(hidden)
    sampled = torchvision.ops.deform_conv2d(
        hidden,
        prediction[:, :offsets],
        layer.conv2.weight,
        stride=2,
        padding=1,
        mask=prediction[:, offsets:].sigmoid() if modulated else None,
    )
    wanted = layer.conv3(layer.conv2.norm(sampled).relu()) + layer.shortcut(x)
    torch.testing.assert_close(layer(x), wanted.relu(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("modulated", [False, True])
def test_backward_reaches_every_parameter(modulated):
    layer = block(modulated=modulated)
    torch.nn.init.normal_(layer.conv2_offset.weight, std=0.1)
    layer(torch.randn(2, 8, 9, 7)).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_stages_are_chosen_by_name():
    model = build_resnet(depth=50, deform_stages=["res4"], modulated=True, **SMALL)
    kinds = [type(stage[0]).__name__ for stage in model.stages]
    assert kinds == ["BottleneckBlock", "BottleneckBlock", "DeformableBottleneckBlock", "BottleneckBlock"]
    names = [name for name in model.state_dict() if "offset" in name]
    assert names == ["res4.0.conv2_offset.weight", "res4.0.conv2_offset.bias"]


def test_weights_of_the_ordinary_network_load_by_the_same_names():
    plain, deformable = (build_resnet(depth=50, deform_stages=s, **SMALL) for s in ((), ("res3", "res5")))
    missing, unexpected = deformable.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and all("conv2_offset" in name for name in missing)
    x = torch.randn(1, 3, 32, 64)
    for name, value in plain(x).items():
        torch.testing.assert_close(deformable(x)[name], value, rtol=1e-4, atol=1e-4)


def predicting(activation=None, norm=None, **settings):
    """Return an ordinary convolution of 8 to 12 channels and its deformable form, with the same weight."""
    torch.manual_seed(0)
    ordinary = Conv2d(8, 12, 3, padding=1, bias=norm is None, norm=norm, activation=activation)
    return ordinary, OffsetPredictingConv2d(ordinary, **settings)


@pytest.mark.parametrize(("modulated", "values", "factor"), [(False, 18, 1.0), (True, 27, 0.5)])
@pytest.mark.parametrize("offset_groups", [1, 4])
def test_predicting_layer_starts_as_the_ordinary_one(modulated, values, factor, offset_groups):
    ordinary, layer = predicting(modulated=modulated, offset_groups=offset_groups)
    assert layer.offset.weight.shape == (values * offset_groups, 8, 3, 3)
    assert not layer.offset.weight.any() and not layer.offset.bias.any()
    x = torch.randn(2, 8, 9, 7)
    convolved = torch.nn.functional.conv2d(x, ordinary.weight, padding=1)
    wanted = factor * convolved + ordinary.bias[:, None, None]
    torch.testing.assert_close(layer(x), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("offset_groups", [1, 4])
@pytest.mark.parametrize("modulated", [False, True])
def test_predicting_layer_keeps_norm_and_activation(modulated, offset_groups):
    """The norm sees the samples' product, the activation what the norm gives."""
    norm = torch.nn.GroupNorm(4, 12)
    torch.nn.init.normal_(norm.weight)
    activation = torch.nn.ReLU(inplace=True)
    _, layer = predicting(activation, norm, modulated=modulated, offset_groups=offset_groups)
    assert sorted(layer.state_dict()) == [
        "norm.bias",
        "norm.weight",
        "offset.bias",
        "offset.weight",
        "weight",
    ]
    torch.nn.init.normal_(layer.offset.weight, std=0.2)
    torch.nn.init.normal_(layer.offset.bias)
    x = torch.randn(2, 8, 9, 7)
    prediction = layer.offset(x)
    offsets = 18 * offset_groups
    mask = prediction[:, offsets:].sigmoid() if modulated else None
    sampled = torchvision.ops.deform_conv2d(x, prediction[:, :offsets], layer.weight, padding=1, mask=mask)
    torch.testing.assert_close(layer(x), norm(sampled).relu(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("channel", "moved"), [(18, "offset"), (19, "offset"), (72 + 9, "mask")])
def test_order_of_the_predicted_channels(channel, moved):
    """Four groups: 72 offsets, group by group, tap by tap (y, x), then 36 masks in the same order.

    The channels tried belong to the first tap, the one to the upper left, of the second group: the third
    and the fourth channel of the input.
    """
    _, layer = predicting(modulated=True, offset_groups=4)
    x = torch.randn(1, 8, 9, 7)
    before = layer(x)
    layer.offset.bias.data[channel] = 1
    change = layer(x) - before
    shift = {18: (1, 0), 19: (0, 1)}.get(channel, (0, 0))
    seen = torch.nn.functional.pad(x[:, 2:4], (1, 1, 1, 1))  # what the first tap reads at (y, x)
    now = seen[:, :, shift[0] : shift[0] + 9, shift[1] : shift[1] + 7]
    share = 0.5 if moved == "offset" else torch.sigmoid(torch.ones(())).item()
    difference = share * now - 0.5 * seen[:, :, :9, :7]
    wanted = torch.einsum("ncyx,oc->noyx", difference, layer.weight[:, 2:4, 0, 0])
    torch.testing.assert_close(change, wanted, rtol=1e-4, atol=1e-5)


def test_predicting_layer_trains_every_parameter():
    _, layer = predicting(
        torch.nn.ReLU(inplace=True), torch.nn.GroupNorm(4, 12), modulated=True, offset_groups=4
    )
    layer(torch.randn(2, 8, 9, 7)).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
