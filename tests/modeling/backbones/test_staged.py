"""Backbones on parts of timm: sizes, gradients, freezing, initial values, and what bad arguments are told."""

import math
import sys
from functools import cache

import pytest
import torch

from htd.layers.norms import FixedBatchNorm2d
from htd.modeling.backbones import build_res2net, build_senet154
from tests.modeling.backbones.conftest import DEFORMABLE, PARTS, pictures

# One block a stage: a third of SENet-154's parameters, and a Res2Net that is narrow as well.
SMALL = {
    build_senet154: {"num_blocks": (1, 1, 1, 1)},
    build_res2net: {"num_blocks": (1, 1, 1, 1), "stem_channels": 16},
}
BUILDERS = pytest.mark.parametrize("build", SMALL)
# Each stride of 2 rounds up: 37 -> 19 -> 10 -> 5 -> 3 -> 2; 50 -> 25 -> 13 -> 7 -> 4 -> 2. SENet-154 has a
# max-pool without padding, which rounds down: 19 -> 9 and 25 -> 12.
SIZES = [
    (build_senet154, (64, 96), [(16, 24), (8, 12), (4, 6), (2, 3)]),
    (build_senet154, (37, 50), [(9, 12), (5, 6), (3, 3), (2, 2)]),
    (build_res2net, (64, 96), [(16, 24), (8, 12), (4, 6), (2, 3)]),
    (build_res2net, (37, 50), [(10, 13), (5, 7), (3, 4), (2, 2)]),
    (build_res2net, (1, 1), [(1, 1)] * 4),
]
# Of a Res2Net some layers have fewer channels than a group norm has groups.
NORMS = [(build, norm) for build in SMALL for norm in ("FixedBN", "BN", "")] + [(build_senet154, "GN")]


@pytest.fixture(scope="module")
def deformable():
    """Return a function that builds a small network whose offsets are not zero, once."""
    return cache(with_offsets)


def with_offsets(build, **settings):
    torch.manual_seed(0)
    network = build(deform_stages=DEFORMABLE, **SMALL[build], **settings)
    for name, parameter in network.named_parameters():
        if ".offset." in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return network


@pytest.mark.parametrize(
    ("build", "blocks"), [(build_senet154, [3, 8, 36, 3]), (build_res2net, [3, 4, 23, 3])]
)
def test_structure(build, blocks):
    with torch.device("meta"):
        network = build()
    assert [len(getattr(network, name)) for name in PARTS[1:]] == blocks
    assert {name: (shape.channels, shape.stride) for name, shape in network.output_shape().items()} == {
        "res2": (256, 4),
        "res3": (512, 8),
        "res4": (1024, 16),
        "res5": (2048, 32),
    }
    kinds = {type(module) for module in network.modules() if "Norm" in type(module).__name__}
    assert kinds == {FixedBatchNorm2d}
    frozen = {name.split(".")[0] for name, p in network.named_parameters() if not p.requires_grad}
    assert frozen == {"stem", "res2"}


@pytest.mark.parametrize(("build", "size", "expected"), SIZES)
def test_a_batch_is_its_images_one_by_one(deformable, build, size, expected):
    network, batch = deformable(build).eval(), pictures(*size)
    with torch.no_grad():
        together = network(batch)
        alone = [network(item[None]) for item in batch]
    assert [tuple(value.shape[2:]) for value in together.values()] == expected
    for name, value in together.items():
        single = torch.cat([maps[name] for maps in alone])
        torch.testing.assert_close(value, single, rtol=1e-4, atol=1e-5 * value.abs().max().item())


@pytest.mark.parametrize(
    ("build", "settings"), [(build_senet154, {}), (build_res2net, {}), (build_res2net, {"modulated": True})]
)
def test_gradients(deformable, build, settings):
    """They pass through the deformable layers to all that is trained, and to nothing that is frozen."""
    network = deformable(build, **settings).train()
    network.zero_grad(set_to_none=True)
    sum(value.square().mean() for value in network(pictures(48, 64, 1)).values()).backward()
    for name, parameter in network.named_parameters():
        if name.startswith(("stem.", "res2.")):
            assert parameter.grad is None, name
        else:
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(("build", "norm"), NORMS)
@pytest.mark.parametrize("freeze_at", [0, 3])
def test_frozen_parts(build, norm, freeze_at):
    network = build(norm=norm, freeze_at=freeze_at, out_features=["res2", "res3"], **SMALL[build]).train()
    trained = {name.split(".")[0] for name, p in network.named_parameters() if p.requires_grad}
    assert trained == set(PARTS[freeze_at:3])
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network(pictures(32, 48))
    after = network.state_dict()
    moved = {name.split(".")[0] for name, value in after.items() if (value != before[name]).any()}
    assert moved == (set(PARTS[freeze_at:3]) if norm == "BN" else set())


@pytest.mark.parametrize(
    ("build", "layers"),
    [
        (build_senet154, ("stem.conv3", "res4.0.conv1", "res4.0.conv3", "res4.0.downsample.0")),
        (build_res2net, ("stem.3", "res4.0.conv1", "res4.0.convs.1", "res4.0.conv3", "res4.0.downsample.1")),
    ],
)
def test_initial_values(build, layers):
    """Kaiming normal over the fan-out: std = sqrt(2 / (out channels * kernel area))."""
    torch.manual_seed(0)
    network = build(num_blocks=(1, 1, 1, 1), out_features=["res4"])
    for layer in map(network.get_submodule, layers):
        out_channels, _, height, width = layer.weight.shape
        expected = math.sqrt(2 / (out_channels * height * width))
        assert layer.weight.std().item() == pytest.approx(expected, rel=0.03)
    norm = network.res4[0].bn3
    assert (norm.weight == 1).all() and (norm.bias == 0).all()


@BUILDERS
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"deform_stages": ["layer3"]}, "deform_stages names layer3; the stages are res2"),
        ({"out_features": ["p2"]}, "out_features names p2; the stages are res2"),
        ({"num_blocks": [1, 1]}, "num_blocks has 2 numbers"),
        ({"norm": "SyncGN"}, "SyncGN"),
    ],
)
def test_mistakes_are_named(build, settings, message):
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        build(**settings)


@pytest.mark.parametrize(
    ("build", "module", "network"),
    [(build_senet154, "senet", "SENet-154"), (build_res2net, "res2net", "a Res2Net")],
)
def test_without_timm(monkeypatch, build, module, network):
    monkeypatch.setitem(sys.modules, f"timm.models.{module}", None)
    with pytest.raises(ValueError, match=f"{network} is built from timm .*pip install 'timm>=1.0,<2'"):
        build()
