"""The layers of dense heads' towers: what they compute, and their names."""

import pytest
import torch
import torchvision
from torch.nn.functional import conv2d, group_norm

from htd.modeling.dense.head import tower_conv


def filled(layer):
    """Return the layer with values that make every parameter count."""
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return layer


@pytest.fixture
def maps():
    """A batch of maps."""
    return torch.randn(2, 16, 7, 5, generator=torch.Generator().manual_seed(0))


def test_norm_and_relu_follow_the_convolution(maps):
    layer = filled(tower_conv(16, 24, num_groups=4))
    norm = layer.norm
    wanted = group_norm(conv2d(maps, layer.weight, padding=1), 4, norm.weight, norm.bias, eps=1e-5).relu()
    torch.testing.assert_close(layer(maps), wanted)
    assert sorted(layer.state_dict()) == ["norm.bias", "norm.weight", "weight"]


def test_bias_and_relu_without_a_norm(maps):
    layer = filled(tower_conv(16, 24, num_groups=None))
    torch.testing.assert_close(layer(maps), conv2d(maps, layer.weight, layer.bias, padding=1).relu())
    assert sorted(layer.state_dict()) == ["bias", "weight"]


def test_deformable_layer_samples_and_weighs_by_groups(maps):
    layer = filled(tower_conv(16, 24, num_groups=4, deformable=True, offset_groups=2))
    prediction = conv2d(maps, layer.offset.weight, layer.offset.bias, padding=1)
    offset, mask = prediction[:, :36], prediction[:, 36:].sigmoid()
    sampled = torchvision.ops.deform_conv2d(maps, offset, layer.weight, padding=1, mask=mask)
    wanted = group_norm(sampled, 4, layer.norm.weight, layer.norm.bias, eps=1e-5).relu()
    torch.testing.assert_close(layer(maps), wanted, rtol=1e-4, atol=1e-5)
    names = ["norm.bias", "norm.weight", "offset.bias", "offset.weight", "weight"]
    assert sorted(layer.state_dict()) == names


def test_groups_of_offsets_divide_the_channels():
    with pytest.raises(ValueError, match="offset_groups is 3"):
        tower_conv(16, 24, num_groups=4, deformable=True, offset_groups=3)
