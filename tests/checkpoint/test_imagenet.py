"""ImageNet weights by URI; nothing is downloaded here."""

import logging
from urllib.error import URLError

import pytest
import torch
import torchvision
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.file_io import PathManager
from torch import nn

from htd.checkpoint import imagenet
from htd.errors import UserError
from htd.modeling.backbones import XavierFPN, build_res2net, build_resnet
from tests import recorded


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Keep converted files out of the user's cache."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def weights():
    """Random weights of a ResNet-18 in torchvision's layout, with lively statistics."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18()
    for name, value in model.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            value.uniform_(0.5, 1.5)
    return model.state_dict()


@pytest.fixture
def file(weights, tmp_path):
    """A file of those weights."""
    torch.save(weights, tmp_path / "resnet18-abc.pth")
    return tmp_path / "resnet18-abc.pth"


class Detector(nn.Module):
    """A backbone where a detector has it."""

    def __init__(self, **settings):
        super().__init__()
        bottom_up = build_resnet(**settings)
        self.backbone = XavierFPN(bottom_up, ["res2", "res3", "res4", "res5"], 8)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("resnet18", {"depth": 18}),
        ("resnet50", {"depth": 50}),
        ("resnext50_32x4d", {"depth": 50, "groups": 32, "width_per_group": 4}),
    ],
)
def test_features_are_those_of_the_classifier(name, settings):
    torch.manual_seed(0)
    classifier = getattr(torchvision.models, name)().eval()
    converted, dropped = imagenet.convert_imagenet(classifier.state_dict(), prefix="")
    model = build_resnet(**settings).eval()
    model.load_state_dict(converted)
    assert dropped == ["fc.weight", "fc.bias"]
    x = torch.randn(1, 3, 64, 64)
    body = nn.Sequential(*list(classifier.children())[:-2])
    with torch.no_grad():
        torch.testing.assert_close(model(x)["res5"], body(x), rtol=1e-4, atol=1e-5)


def test_detectron2s_checkpointer_loads_the_uri(file, weights, caplog):
    model = Detector(depth=18)
    laterals = model.backbone.fpn_lateral2.weight.clone()
    with caplog.at_level(logging.INFO, logger="htd.checkpoint.imagenet"):
        DetectionCheckpointer(model).load(f"imagenet://{file}")
    ours = model.backbone.bottom_up
    assert torch.equal(ours.stem.conv1.weight, weights["conv1.weight"])
    assert torch.equal(ours.res5[1].conv2.norm.running_var, weights["layer4.1.bn2.running_var"])
    assert torch.equal(ours.res3[0].shortcut.weight, weights["layer2.0.downsample.0.weight"])
    assert torch.equal(model.backbone.fpn_lateral2.weight, laterals)
    assert "120 tensors for the backbone, dropped fc.weight, fc.bias" in caplog.text


def test_same_path_can_be_given_twice_and_follows_the_file(file, weights):
    first = PathManager.get_local_path(f"imagenet://{file}")
    torch.save({"state_dict": {k: v + 1 for k, v in weights.items()}, "meta": {"epoch": 3}}, file)
    # The second form is what Python's urllib makes of the first.
    assert PathManager.get_local_path(f"imagenet://{file}") == first
    second = PathManager.get_local_path(f"imagenet:{file}")
    for path in (first, second):
        loaded = torch.load(path, weights_only=True)["model"]
        assert torch.equal(loaded["backbone.bottom_up.stem.conv1.weight"], weights["conv1.weight"] + 1)


def test_deformable_layers_take_the_weights_of_the_layers_they_replace():
    small = {"depth": 50, "num_blocks": (1, 1, 1, 1)}
    classifier = torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [1, 1, 1, 1])
    converted, _ = imagenet.convert_imagenet(classifier.state_dict(), prefix="")
    model = build_resnet(deform_stages=["res4", "res5"], **small)
    missing, unexpected = model.load_state_dict(converted, strict=False)
    assert torch.equal(model.res5[0].conv2.weight, classifier.layer4[0].conv2.weight)
    assert not unexpected
    offsets = {f"{stage}.0.conv2_offset.{leaf}" for stage in ("res4", "res5") for leaf in ("weight", "bias")}
    assert set(missing) == offsets


@pytest.mark.parametrize("deform_stages", [(), ("res4", "res5")])
def test_res2net(deform_stages):
    """Nothing of the file is left but the classifier; nothing of the network but offsets, which are new."""
    entries = recorded.manifest("salt", "manifest_res2net101_v1d_26w_4s")["entries"]
    with torch.device("meta"):
        weights = {name: torch.empty(shape) for name, shape in entries.items()}
        weights |= {"fc.weight": torch.empty(1000, 2048), "fc.bias": torch.empty(1000)}
        model = build_res2net(deform_stages=deform_stages)
    converted, dropped = imagenet.convert_imagenet(weights, prefix="")
    assert dropped == ["fc.weight", "fc.bias"]
    missing, unexpected = model.load_state_dict(converted, strict=False, assign=True)
    assert not unexpected and all(".offset." in name for name in missing)
    # Three convolutions in each of the blocks of res4 and res5, a weight and a bias each.
    assert len(missing) == (2 * 3 * (23 + 3) if deform_stages else 0)


@pytest.mark.parametrize(
    ("uri", "url"),
    [
        ("imagenet://torchvision/resnet50", torchvision.models.ResNet50_Weights.IMAGENET1K_V1.url),
        ("imagenet://torchvision/resnet152", torchvision.models.ResNet152_Weights.IMAGENET1K_V1.url),
        ("imagenet://mmdet/resnext101_64x4d", imagenet.OPENMMLAB + "resnext101_64x4d-ee2c6f71.pth"),
        ("imagenet://mmdet/resnext101_32x4d", imagenet.OPENMMLAB + "resnext101_32x4d-a5af3160.pth"),
        (
            "imagenet://mmdet/res2net101_v1d_26w_4s",
            imagenet.OPENMMLAB + "res2net101_v1d_26w_4s_mmdetv2-f0a600f9.pth",
        ),
        ("imagenet://timm/senet154", imagenet.TIMM + "legacy_senet154-e9eb9fe6.pth"),
    ],
)
def test_named_weights(uri, url, weights, monkeypatch):
    asked = []

    def download(url, *, map_location, check_hash, weights_only):
        asked.append((url, check_hash))
        assert map_location == "cpu" and weights_only
        return weights

    monkeypatch.setattr(imagenet, "load_state_dict_from_url", download)
    assert PathManager.isfile(uri) and PathManager.exists(uri) and not asked
    with PathManager.open(uri, "rb") as opened:
        assert len(torch.load(opened, weights_only=True)["model"]) == 120
    assert asked == [(url, True)]


def test_every_named_file_carries_the_hash_that_is_checked():
    models = torchvision.models.list_models(torchvision.models)
    urls = [imagenet._torchvision_url(model) for model in models if model.startswith(("resnet", "resnext"))]
    names = urls + list(imagenet.FILES.values())
    assert len(urls) > 6 and all(len(torch.hub.HASH_REGEX.search(name)[1]) == 8 for name in names)


def test_no_connection(monkeypatch):
    def download(*args, **kwargs):
        raise URLError("unreachable")

    monkeypatch.setattr(imagenet, "load_state_dict_from_url", download)
    with pytest.raises(UserError, match="cannot get https.*imagenet:///path/to/file.pth"):
        imagenet.read_imagenet("imagenet://torchvision/resnet50")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("imagenet://torchvision/vgg16", "torchvision has no backbone weights 'vgg16'; there are resnet101"),
        ("imagenet://mmdet/resnext50_32x4d", "no such weights; there are mmdet/resnext101_32x4d"),
        ("imagenet://timm/resnet50", "no such weights; there are .*, timm/senet154"),
        ("imagenet://nowhere/file.pth", "no ImageNet weights at 'nowhere/file.pth'"),
        ("imagenet:///nowhere/file.pth", "no ImageNet weights at '/nowhere/file.pth'"),
    ],
)
def test_unknown_places(uri, message):
    with pytest.raises(UserError, match=message):
        imagenet.read_imagenet(uri)


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        (["backbone.conv1.weight", "neck.x"], "backbone.conv1.weight, neck.x"),
        (["layer0.conv1.weight", "layer1.0.conv1.norm.bias"], "layer1.0.conv1.norm.bias"),
        (["stem.0.weight", "layer1.0.conv2.weight"], "layer1.0.conv2.weight"),  # a ResNet with a deep stem
        (["conv1.0.weight", "layer1.0.convs.0.weight"], "conv1.0.weight, layer1.0.convs.0.weight"),  # timm's
        ([], "no tensor at all"),
    ],
)
def test_other_files_are_refused(keys, found):
    with pytest.raises(UserError, match=f"found {found}"):
        imagenet.convert_imagenet({key: torch.zeros(1) for key in keys})
