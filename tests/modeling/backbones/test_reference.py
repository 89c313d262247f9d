"""Backbones with deformable convolution against the reference arrays."""

import pytest
import torch

from htd.checkpoint.convert import convert
from htd.modeling.backbones import build_resnet
from tests.golden import image, network_input, published_weights, tensors
from tests.modeling.backbones.test_resnet import PUBLISHED


@pytest.mark.parametrize(
    ("case", "name", "seed"),
    [
        ("backbone_r101_dcn", "manifest_r101_dcn", 23),
        pytest.param("backbone_x101_dcn", "manifest_x101_64x4d_dcn", 24, marks=pytest.mark.slow),
    ],
)
def test_deformable_backbone(case, name, seed):
    wanted = tensors("htd", case)
    model = build_resnet(**PUBLISHED[name]).eval()
    weights, _ = convert(published_weights("htd", name, "backbone."), model, source="htd")
    model.load_state_dict(weights)
    with torch.no_grad():
        maps = model(network_input(image("htd", *wanted["image_hw"].tolist(), seed)))
    c2, c3, c4, c5 = maps.values()
    for level, value in zip("2345", (c2, c3, c4, c5), strict=True):
        torch.testing.assert_close(value.mean(), wanted[f"c{level}_mean"], rtol=1e-5, atol=0)
        torch.testing.assert_close(value.std(), wanted[f"c{level}_std"], rtol=1e-5, atol=0)
    torch.testing.assert_close(c3[:, ::16, ::2, ::2], wanted["c3_slice"], rtol=0, atol=5e-4)
    torch.testing.assert_close(c4[:, ::8], wanted["c4_slice"], rtol=0, atol=5e-4)
    torch.testing.assert_close(c5, wanted["c5"], rtol=0, atol=1e-3)
