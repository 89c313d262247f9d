"""The levels above the pyramid of dense detectors: sizes, values, initial values, what is refused."""

import math

import pytest
import torch
from torch.nn.functional import conv2d

from htd.modeling.backbones import ExtraLevels, XavierFPN, build_resnet
from tests.modeling.backbones.conftest import SMALL

LEVELS = ["res3", "res4", "res5"]
RES5 = 256  # channels of the small network's last map


def pyramid(norm="", channels=32, **extra):
    """Return a small pyramid of P3 to P7."""
    torch.manual_seed(0)
    bottom_up = build_resnet(depth=50, out_features=LEVELS, **SMALL)
    top = ExtraLevels(extra.pop("in_channels", channels), channels, norm=norm, **extra)
    return XavierFPN(bottom_up, LEVELS, channels, norm=norm, top_block=top)


def halved(x, layer):
    """A 3x3 convolution with stride 2 and a border of zeros."""
    return conv2d(x, layer.weight, layer.bias, stride=2, padding=1)


@pytest.mark.parametrize("norm", ["", "GN"])
def test_levels_are_half_of_those_below_rounded_up(norm):
    fpn = pyramid(norm)
    maps = fpn(torch.randn(2, 3, 160, 96))
    assert {name: tuple(value.shape) for name, value in maps.items()} == {
        "p3": (2, 32, 20, 12),
        "p4": (2, 32, 10, 6),
        "p5": (2, 32, 5, 3),
        "p6": (2, 32, 3, 2),
        "p7": (2, 32, 2, 1),
    }
    assert [shape.stride for shape in fpn.output_shape().values()] == [8, 16, 32, 64, 128]
    assert {shape.channels for shape in fpn.output_shape().values()} == {32}


def test_made_from_the_pyramid_without_relu(picture):
    """The published form of ATSS, GFL and TOOD."""
    fpn = pyramid()
    maps = fpn(picture)
    p6 = halved(maps["p5"], fpn.top_block.p6)
    assert (p6 < 0).any()
    torch.testing.assert_close(maps["p6"], p6)
    torch.testing.assert_close(maps["p7"], halved(p6, fpn.top_block.p7))


def test_made_from_the_network_with_relu(picture):
    """The form of RetinaNet's paper: P6 keeps its negative values, P7 does not see them."""
    fpn = pyramid(in_feature="res5", in_channels=RES5, relu=True)
    maps = fpn(picture)
    p6 = halved(fpn.bottom_up(picture)["res5"], fpn.top_block.p6)
    assert (p6 < 0).any()
    torch.testing.assert_close(maps["p6"], p6)
    torch.testing.assert_close(maps["p7"], halved(p6.clamp(min=0), fpn.top_block.p7))


def test_norm_replaces_the_bias_everywhere():
    names = {name.rpartition(".")[0]: name for name, _ in pyramid("GN").named_parameters()}
    layers = {name for name in names if not name.startswith("bottom_up") and not name.endswith("norm")}
    assert len(layers) == 8 and all(f"{name}.norm" in names for name in layers)
    biases = [n for n, _ in pyramid("GN").top_block.named_parameters() if n.endswith("bias")]
    assert biases == ["p6.norm.bias", "p7.norm.bias"]


def test_names_and_initial_values():
    """Xavier uniform: within +-sqrt(6 / (fan-in + fan-out)), std the limit over sqrt(3); no bias."""
    torch.manual_seed(0)
    top = ExtraLevels(512, 128)
    assert list(top.state_dict()) == ["p6.weight", "p6.bias", "p7.weight", "p7.bias"]
    for layer, fans in ((top.p6, (512 + 128) * 9), (top.p7, (128 + 128) * 9)):
        limit = math.sqrt(6 / fans)
        assert layer.weight.abs().max().item() == pytest.approx(limit, rel=0.01)
        assert layer.weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.02)
        assert not layer.bias.any()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"in_feature": "c5"}, "names c5; the maps are res3, res4, res5, p3, p4, p5$"),
        ({"in_feature": "p6"}, "names p6; the maps are res3, res4, res5, p3, p4, p5$"),
        ({"in_feature": "res5"}, "res5 has 256 channels, top_block.in_channels is 32; set it to 256"),
        ({"norm": "LN2"}, "LN2"),
    ],
)
def test_what_does_not_fit_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        pyramid(**wrong)
