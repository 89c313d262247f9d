"""ResNet and ResNeXt: names, shapes, freezing, initial values."""

import math

import pytest
import torch
from detectron2.config import instantiate

from htd.checkpoint.convert import convert
from htd.layers.norms import FixedBatchNorm2d
from htd.modeling.backbones import build_resnet
from tests.modeling.backbones.conftest import DEFORMABLE, SMALL, config
from tests.recorded import manifest

PUBLISHED = {
    "manifest_r50": {"depth": 50},
    "manifest_r101": {"depth": 101},
    "manifest_r101_dcn": {"depth": 101, "deform_stages": DEFORMABLE},
    "manifest_x101_64x4d_dcn": {
        "depth": 101,
        "groups": 64,
        "width_per_group": 4,
        "deform_stages": DEFORMABLE,
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_names_and_shapes(name):
    """Every published tensor has one place here and every place is filled, on any Detectron2."""
    shapes = manifest("htd", name)["entries"]
    with torch.device("meta"):
        model = build_resnet(**PUBLISHED[name])
        weights = {key: torch.empty(shape) for key, shape in shapes.items() if key.startswith("backbone.")}
    converted, report = convert(weights, model, source="htd")
    assert report.complete and converted.keys() == model.state_dict().keys()


@pytest.mark.parametrize(
    ("settings", "widths"),
    [
        ({"depth": 50}, (64, 128, 256, 512)),
        ({"depth": 101, "groups": 32, "width_per_group": 4}, (128, 256, 512, 1024)),
        ({"depth": 101, "groups": 64, "width_per_group": 4}, (256, 512, 1024, 2048)),
        ({"depth": 152}, (64, 128, 256, 512)),
        ({"depth": 34}, (64, 128, 256, 512)),
    ],
)
def test_structure(settings, widths):
    with torch.device("meta"):
        model = build_resnet(**settings)
    blocks = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
    assert tuple(map(len, model.stages)) == blocks[settings["depth"]]
    for i, (stage, width) in enumerate(zip(model.stages, widths, strict=True)):
        conv = stage[0].conv2
        assert conv.weight.shape == (width, width // settings.get("groups", 1), 3, 3)
        first = stage[0].conv1 if settings["depth"] == 34 else conv
        assert first.stride == ((1, 1) if i == 0 else (2, 2))
    channels = [shape.channels for shape in model.output_shape().values()]
    assert channels == ([64, 128, 256, 512] if settings["depth"] == 34 else [256, 512, 1024, 2048])
    assert [shape.stride for shape in model.output_shape().values()] == [4, 8, 16, 32]


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("norm", ["FixedBN", "BN", "FrozenBN", "GN"])
def test_small_networks_train(depth, norm, picture):
    widths = {"stem_channels": 32, "width_per_group": 32, "num_blocks": (1, 1, 1, 1)}
    model = build_resnet(depth=depth, norm=norm, freeze_at=0, **widths)
    maps = model.train()(picture)
    assert {name: value.shape[2:] for name, value in maps.items()} == {
        "res2": (16, 24),
        "res3": (8, 12),
        "res4": (4, 6),
        "res5": (2, 3),
    }
    sum(value.square().mean() for value in maps.values()).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("norm", ["FixedBN", "BN"])
@pytest.mark.parametrize("freeze_at", [0, 1, 2, 5])
def test_frozen_stages(norm, freeze_at, picture):
    """What is frozen keeps parameters and statistics; the state dict has the same names always."""
    model = build_resnet(depth=50, norm=norm, freeze_at=freeze_at, **SMALL).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    parts = ("stem", "res2", "res3", "res4", "res5")
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == set(parts[freeze_at:])
    model(picture)
    moved = {
        name.split(".")[0] for name, value in model.state_dict().items() if (value != before[name]).any()
    }
    assert moved == (set(parts[freeze_at:]) if norm == "BN" else set())
    assert before.keys() == build_resnet(depth=50, norm="BN", freeze_at=0, **SMALL).state_dict().keys()


def test_published_training_state():
    """Stem and res2 are frozen; beyond, scale and shift of the norms train, with fixed statistics."""
    with torch.device("meta"):
        model = instantiate(config().bottom_up)
    norms = [module for module in model.modules() if isinstance(module, FixedBatchNorm2d)]
    assert len(norms) == 53 and all(norm.eps == 1e-5 for norm in norms)
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert len(frozen) == 33 and all(name.startswith(("stem.", "res2.")) for name in frozen)
    assert len(list(model.parameters())) == 159


def test_initial_values():
    """Kaiming normal over the fan-out: std = sqrt(2 / (out channels * kernel area))."""
    torch.manual_seed(0)
    model = build_resnet(depth=50, num_blocks=(1, 1, 1, 1))
    for layer in (model.stem.conv1, model.res4[0].conv2, model.res5[0].conv3, model.res5[0].shortcut):
        out_channels, _, height, width = layer.weight.shape
        assert layer.weight.std().item() == pytest.approx(
            math.sqrt(2 / (out_channels * height * width)), rel=0.02
        )
        assert abs(layer.weight.mean().item()) < 1e-3
        assert (layer.norm.weight == 1).all() and (layer.norm.bias == 0).all()


def test_only_needed_stages_are_built():
    model = build_resnet(depth=50, out_features=["res2", "res3"], **SMALL)
    assert not hasattr(model, "res4")
    assert list(model.output_shape()) == ["res2", "res3"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 51}, "no ResNet of depth 51; choose one of 18, 34, 50, 101, 152"),
        ({"depth": 50, "deform_stages": ["layer3"]}, "deform_stages names layer3; the stages are res2"),
        ({"depth": 18, "deform_stages": ["res5"]}, "ResNet-18 has basic"),
        (
            {"depth": 50, "deform_stages": ["res3"], "offset_groups": 3},
            "offset_groups=3 does not divide the 128 channels of res3",
        ),
        ({"depth": 50, "num_blocks": [1, 1]}, "num_blocks has 2 numbers"),
        ({"depth": 50, "norm": "SyncGN"}, "SyncGN"),
    ],
)
def test_mistakes_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        build_resnet(**settings)
