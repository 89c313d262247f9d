"""The deeper and wider backbones of TSD's models against the reference arrays.

Each map is compared within 1e-4 of its largest value, and so are the means of all its channels.
"""

import pytest
import torch

from htd.checkpoint.convert import convert
from htd.checkpoint.imagenet import convert_imagenet
from htd.modeling.backbones import build_resnet, build_senet154
from tests.modeling.backbones.conftest import DEFORMABLE
from tests.recorded import close, image, manifest, network_input, published_weights, tensors

RESNETS = {
    "r101": {"depth": 101},
    "r152": {"depth": 152},
    "x101_32x4d": {"depth": 101, "groups": 32, "width_per_group": 4},
    "r101_dcn": {"depth": 101, "deform_stages": DEFORMABLE},
    "x101_64x4d_dcn": {"depth": 101, "groups": 64, "width_per_group": 4, "deform_stages": DEFORMABLE},
}
SIZES = dict.fromkeys(RESNETS, (48, 64)) | dict.fromkeys(("r101_dcn", "x101_64x4d_dcn"), (96, 128))


def check(network, tag, size, device, tolerance=1e-4):
    """Fail unless the maps of a network are the recorded ones."""
    wanted = tensors("tsd", f"backbone_{tag}")
    picture = image(f"backbone.{tag}", *size, manifest("tsd", f"backbone_{tag}")["seed"])
    with torch.no_grad():
        maps = network.eval().to(device)(network_input(picture, divisor=1).to(device))
    for name, found in maps.items():
        level = name.replace("res", "C")
        atol = tolerance * wanted[level].abs().max().item()
        close(found[0, : len(wanted[level])], wanted[level], atol)
        close(found[0].mean(dim=(1, 2)), wanted[f"{level}_mean"], atol)


@pytest.mark.parametrize("tag", RESNETS)
def test_resnet(tag, device):
    network = build_resnet(**RESNETS[tag])
    weights, report = convert(published_weights("tsd", f"backbone_{tag}"), network, source="body")
    assert report.complete
    network.load_state_dict(weights)
    check(network, tag, SIZES[tag], device)


def test_senet154(device):
    """The library's network is the public definition: five times nearer than the others have to be."""
    weights = published_weights("tsd", "backbone_senet154")
    network = build_senet154()
    converted, dropped = convert_imagenet(weights, prefix="")
    network.load_state_dict(converted)
    assert dropped == ["last_linear.weight", "last_linear.bias"]
    check(network, "senet154", (64, 96), device, tolerance=2e-5)
