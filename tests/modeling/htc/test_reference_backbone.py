"""The deformable ResNeXt-101 of HTC and its pyramid against the reference arrays."""

import pytest
import torch
from detectron2.config import instantiate

from tests.modeling.backbones.test_reference import TO_RES3
from tests.modeling.htc.reference import FEATURES, with_weights
from tests.modeling.reference import model_config
from tests.recorded import image, network_input, tensors

LEAF, NAME = "htc/htc_x101_64x4d_fpn_dcn_20e_ms", "htc_x101_64x4d_dcn"
LEVELS = ("p2", "p3", "p4", "p5", "p6")
# Blocks with deformable convolution in res3.
FIRST_OFFSETS = 4


@pytest.fixture(scope="module")
def case():
    return tensors("htc", "x101_64x4d_dcn_backbone")


@pytest.fixture(scope="module")
def picture(case, device):
    return network_input(image("img1", *case["image_sizes"][0].tolist(), 106)).to(device)


def offsets_of(network):
    """Return a list that fills with the mean absolute offset of each deformable layer as the network runs."""
    found = []
    for name, part in network.named_modules():
        if name.endswith("conv2_offset"):
            part.register_forward_hook(lambda part, inputs, output: found.append(output.abs().mean().item()))
    return found


def check_means(case, maps, levels):
    for i in levels:
        x = maps[f"res{i}"][0]
        FEATURES.check(x.mean(dim=(1, 2)), case[f"c{i}_channel_mean"])
        FEATURES.check(x.abs().mean(dim=(1, 2)), case[f"c{i}_channel_absmean"])


def test_first_deformable_stage(case, picture, device):
    config = model_config(LEAF).backbone.bottom_up
    config.out_features = ["res2", "res3"]
    network = with_weights(instantiate(config), NAME, device, TO_RES3).eval()
    offsets = offsets_of(network)
    with torch.no_grad():
        maps = network(picture)
    check_means(case, maps, (2, 3))
    FEATURES.check(maps["res3"][0, ::32], case["c3_sample"])
    FEATURES.check(offsets, case["mean_abs_offset"][:FIRST_OFFSETS])


@pytest.mark.slow
def test_whole_network_and_pyramid(case, picture, device):
    network = with_weights(instantiate(model_config(LEAF).backbone), NAME, device, ("backbone.", "neck."))
    offsets = offsets_of(network.eval())
    with torch.no_grad():
        maps = network.bottom_up(picture)
        FEATURES.check(offsets, case["mean_abs_offset"])
        pyramid = network(picture)
    check_means(case, maps, (2, 3, 4, 5))
    for level, step in ((3, 32), (4, 16), (5, 8)):
        FEATURES.check(maps[f"res{level}"][0, ::step], case[f"c{level}_sample"])
    FEATURES.check(
        torch.stack([pyramid[name][0].mean(dim=(1, 2)) for name in LEVELS]), case["p_channel_mean"]
    )
    FEATURES.check(pyramid["p3"][0, ::16], case["p3_sample"])
