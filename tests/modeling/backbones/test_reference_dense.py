"""Backbone and pyramid of the dense detectors against the reference arrays.

Tolerance: 1e-3 of the largest value of a map, or of the means or deviations of its channels.
"""

import pytest
import torch

from htd.checkpoint.convert import convert
from htd.modeling.backbones import ExtraLevels, XavierFPN, build_resnet
from tests.modeling.backbones.conftest import DEFORMABLE
from tests.recorded import close, image, manifest, network_input, published_weights, tensors

STAGES = ["res2", "res3", "res4", "res5"]
X101 = {"depth": 101, "groups": 64, "width_per_group": 4}
SMALL_IMAGE, LARGE_IMAGE = (120, 150), (200, 260)
CASES = [
    ("atss_r50_fpn_1x", LARGE_IMAGE, {"depth": 50}),
    ("tood_r50_fpn_1x", LARGE_IMAGE, {"depth": 50}),
    ("tood_r50_fpn_anchor_based_1x", LARGE_IMAGE, {"depth": 50}),
    ("tood_r101_fpn_ms2x", SMALL_IMAGE, {"depth": 101}),
    (
        "tood_r101_dcnv2_c3c5_fpn_ms2x",
        SMALL_IMAGE,
        {"depth": 101, "deform_stages": DEFORMABLE, "modulated": True},
    ),
    ("tood_x101_64x4d_fpn_ms2x", SMALL_IMAGE, X101),
    (
        "tood_x101_64x4d_dcnv2_c4c5_fpn_ms2x",
        SMALL_IMAGE,
        {**X101, "deform_stages": ("res4", "res5"), "modulated": True},
    ),
]


def relative(found, wanted):
    close(found, wanted, 1e-3 * wanted.abs().max().item())


@pytest.mark.parametrize(
    ("name", "size", "settings"),
    [pytest.param(*case, id=case[0], marks=[pytest.mark.slow] * ("x101" in case[0])) for case in CASES],
)
def test_features(name, size, settings, device):
    wanted = tensors("tood", f"e2e_{name}")
    bottom_up = build_resnet(**settings, out_features=STAGES)
    fpn = XavierFPN(bottom_up, STAGES[1:], 256, top_block=ExtraLevels(256, 256)).eval()
    published = published_weights("tood", name, ("backbone.", "neck."))
    weights, report = convert(published, fpn, source=name.partition("_")[0])
    assert report.complete
    fpn.load_state_dict(weights)
    picture = network_input(image("img0", *size, manifest("tood", name)["seed"])).to(device)
    kept = {}
    bottom_up.register_forward_hook(lambda module, inputs, maps: kept.update(maps))
    with torch.no_grad():
        maps = fpn.to(device)(picture)
    assert list(maps) == ["p3", "p4", "p5", "p6", "p7"]
    for level, value in {**{k.replace("res", "c"): v for k, v in kept.items()}, **maps}.items():
        relative(value.mean(dim=(2, 3)), wanted[f"{level}_mean"])
        relative(value.std(dim=(2, 3)), wanted[f"{level}_std"])
    relative(maps["p5"][:, ::8], wanted["p5_every8"])
    relative(maps["p6"], wanted["p6"])
    relative(maps["p7"], wanted["p7"])
