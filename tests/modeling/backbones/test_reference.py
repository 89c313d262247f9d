"""Backbones with deformable convolution against the reference arrays."""

import pytest
import torch

from htd.checkpoint.convert import convert
from htd.modeling.backbones import build_resnet
from tests.modeling.backbones.test_resnet import PUBLISHED
from tests.recorded import close, image, network_input, published_weights, tensors

CASES = [
    ("backbone_r101_dcn", "manifest_r101_dcn", 23),
    ("backbone_x101_dcn", "manifest_x101_64x4d_dcn", 24),
]
TO_RES3 = tuple(f"backbone.{part}." for part in ("conv1", "bn1", "layer1", "layer2"))


def outputs(name, prefixes, picture, device, **settings):
    """Return the maps of a published network with the reference weights."""
    model = build_resnet(**PUBLISHED[name], **settings).eval()
    weights, _ = convert(published_weights("htd", name, prefixes), model, source="htd")
    model.load_state_dict(weights)
    with torch.no_grad():
        return model.to(device)(picture.to(device))


def check_statistics(maps, wanted):
    for name, value in maps.items():
        level = name.replace("res", "c")
        close(value.mean(), wanted[f"{level}_mean"], 0, rtol=1e-5)
        close(value.std(), wanted[f"{level}_std"], 0, rtol=1e-5)


@pytest.mark.parametrize(("case", "name", "seed"), CASES)
def test_first_deformable_stage(case, name, seed, device):
    wanted = tensors("htd", case)
    picture = network_input(image("htd", *wanted["image_hw"].tolist(), seed))
    maps = outputs(name, TO_RES3, picture, device, out_features=("res2", "res3"))
    check_statistics(maps, wanted)
    close(maps["res3"][:, ::16, ::2, ::2], wanted["c3_slice"], 5e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("case", "name", "seed"), CASES)
def test_whole_network(case, name, seed, device):
    wanted = tensors("htd", case)
    picture = network_input(image("htd", *wanted["image_hw"].tolist(), seed))
    maps = outputs(name, "backbone.", picture, device)
    check_statistics(maps, wanted)
    close(maps["res3"][:, ::16, ::2, ::2], wanted["c3_slice"], 5e-4)
    close(maps["res4"][:, ::8], wanted["c4_slice"], 5e-4)
    close(maps["res5"], wanted["c5"], 1e-3)
