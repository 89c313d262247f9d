"""Bottleneck block with a deformable convolution."""

import pytest
import torch
import torchvision

from htd.layers.batch_norm import FixedBatchNorm2d
from htd.modeling.backbones import DeformableBottleneckBlock, build_resnet
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
