"""SENet-154: names, sizes, freezing, deformable convolutions, and what is said without timm."""

import math
import sys

import pytest
import torch
from timm.models import get_pretrained_cfg

from htd.checkpoint.imagenet import FILES, convert_imagenet
from htd.errors import UserError
from htd.layers.batch_norm import FixedBatchNorm2d
from htd.modeling.backbones import XavierFPN, build_senet154
from tests.golden import manifest
from tests.modeling.backbones.conftest import DEFORMABLE

# One block a stage, as wide as the large network: a third of its parameters.
SMALL = {"num_blocks": (1, 1, 1, 1)}
PARTS = ("stem", "res2", "res3", "res4", "res5")


@pytest.fixture(scope="module")
def deformable():
    """A small network whose offsets are not zero."""
    torch.manual_seed(0)
    network = build_senet154(deform_stages=DEFORMABLE, **SMALL)
    for name, parameter in network.named_parameters():
        if ".offset." in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return network


def pictures(height, width, count=2):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("deform_stages", [(), DEFORMABLE])
def test_names_and_shapes_of_the_imagenet_file(deform_stages):
    """Nothing of the file is left but the classifier; nothing of the network but offsets, which are new."""
    entries = manifest("tsd", "manifest_senet154")["entries"]
    with torch.device("meta"):
        weights = {name: torch.empty(shape) for name, shape in entries.items()}
        network = build_senet154(deform_stages=deform_stages)
    converted, dropped = convert_imagenet(weights, prefix="")
    assert dropped == ["last_linear.weight", "last_linear.bias"]
    missing, unexpected = network.load_state_dict(converted, strict=False, assign=True)
    assert not unexpected and all(".conv2.offset." in name for name in missing)
    # Blocks of res3 to res5, a weight and a bias each.
    assert len(missing) == (2 * (8 + 36 + 3) if deform_stages else 0)


def test_the_named_weights_are_those_of_timm():
    assert FILES["timm/senet154"] == get_pretrained_cfg("legacy_senet154").url


def test_structure():
    with torch.device("meta"):
        network = build_senet154()
    assert [len(getattr(network, name)) for name in PARTS[1:]] == [3, 8, 36, 3]
    shapes = network.output_shape()
    assert {name: (shape.channels, shape.stride) for name, shape in shapes.items()} == {
        "res2": (256, 4),
        "res3": (512, 8),
        "res4": (1024, 16),
        "res5": (2048, 32),
    }
    kinds = {type(module) for module in network.modules() if "Norm" in type(module).__name__}
    assert kinds == {FixedBatchNorm2d}
    frozen = {name.split(".")[0] for name, p in network.named_parameters() if not p.requires_grad}
    assert frozen == {"stem", "res2"}


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((64, 96), [(16, 24), (8, 12), (4, 6), (2, 3)]),
        # 37 -> 19 -> 9 (a ResNet's padded max-pool gives 10) -> 5 -> 3 -> 2; 50 -> 25 -> 12 -> 6 -> 3 -> 2
        ((37, 50), [(9, 12), (5, 6), (3, 3), (2, 2)]),
    ],
)
def test_a_batch_is_its_images_one_by_one(deformable, size, expected):
    batch = pictures(*size)
    with torch.no_grad():
        together = deformable.eval()(batch)
        alone = [deformable(item[None]) for item in batch]
    assert [tuple(value.shape[2:]) for value in together.values()] == expected
    for name, value in together.items():
        single = torch.cat([maps[name] for maps in alone])
        torch.testing.assert_close(value, single, rtol=1e-4, atol=1e-5 * value.abs().max().item())


def test_gradients(deformable):
    """They pass through the deformable layers to all that is trained, and to nothing that is frozen."""
    deformable.train().zero_grad(set_to_none=True)
    sum(value.square().mean() for value in deformable(pictures(48, 64, 1)).values()).backward()
    for name, parameter in deformable.named_parameters():
        if name.startswith(("stem.", "res2.")):
            assert parameter.grad is None, name
        else:
            assert parameter.grad.abs().sum() > 0, name


def test_deformable_layers_begin_as_ordinary_ones():
    torch.manual_seed(0)
    plain = build_senet154(out_features=["res2", "res3"], **SMALL).eval()
    deformed = build_senet154(deform_stages=["res3"], out_features=["res2", "res3"], **SMALL).eval()
    missing, unexpected = deformed.load_state_dict(plain.state_dict(), strict=False)
    assert missing == ["res3.0.conv2.offset.weight", "res3.0.conv2.offset.bias"] and not unexpected
    assert deformed.res3[0].conv2.offset.weight.shape == (18, 256, 3, 3)
    assert not hasattr(plain, "res4")
    x = pictures(64, 96, 1)
    with torch.no_grad():
        found, wanted = deformed(x), plain(x)
        torch.testing.assert_close(found["res3"], wanted["res3"], rtol=1e-4, atol=1e-4)
        deformed.res3[0].conv2.offset.bias.fill_(0.5)
        assert (deformed(x)["res3"] - wanted["res3"]).abs().max() > 0.01


@pytest.mark.parametrize("norm", ["FixedBN", "BN", "GN", ""])
@pytest.mark.parametrize("freeze_at", [0, 3])
def test_frozen_parts(norm, freeze_at):
    network = build_senet154(norm=norm, freeze_at=freeze_at, out_features=["res2", "res3"], **SMALL).train()
    trained = {name.split(".")[0] for name, p in network.named_parameters() if p.requires_grad}
    assert trained == set(PARTS[freeze_at:3])
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network(pictures(32, 48))
    after = network.state_dict()
    moved = {name.split(".")[0] for name, value in after.items() if (value != before[name]).any()}
    assert moved == (set(PARTS[freeze_at:3]) if norm == "BN" else set())


def test_pyramid():
    """Under a pyramid the images are padded to a multiple of 32, and all levels fit onto each other."""
    network = XavierFPN(build_senet154(**SMALL), PARTS[1:], 16).eval()
    assert network.size_divisibility == 32
    with torch.no_grad():
        levels = network(pictures(32, 96, 1))
    assert [tuple(value.shape[1:]) for value in levels.values()] == [
        (16, 8, 24),
        (16, 4, 12),
        (16, 2, 6),
        (16, 1, 3),
    ]


def test_initial_values():
    """Kaiming normal over the fan-out: std = sqrt(2 / (out channels * kernel area))."""
    torch.manual_seed(0)
    network = build_senet154(**SMALL)
    block = network.res4[0]
    for layer in (network.stem.conv3, block.conv1, block.conv3, block.downsample[0]):
        out_channels, _, height, width = layer.weight.shape
        expected = math.sqrt(2 / (out_channels * height * width))
        assert layer.weight.std().item() == pytest.approx(expected, rel=0.02)
    assert (block.bn3.weight == 1).all() and (block.bn3.bias == 0).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"deform_stages": ["layer3"]}, "deform_stages names layer3; the stages are res2"),
        ({"out_features": ["p2"]}, "out_features names p2; the stages are res2"),
        ({"num_blocks": [1, 1]}, "num_blocks has 2 numbers"),
        ({"norm": "SyncGN"}, "unknown norm 'SyncGN'"),
    ],
)
def test_mistakes_are_named(settings, message):
    with pytest.raises(UserError, match=message), torch.device("meta"):
        build_senet154(**settings)


def test_without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm.models.senet", None)
    with pytest.raises(UserError, match="built from timm .*pip install 'timm>=1.0,<2'"):
        build_senet154()
