"""The feature pyramid: initial values, levels and the shared config."""

import math

import pytest
import torch
from detectron2.config import instantiate

from tests.modeling.backbones.conftest import SMALL, config


def small():
    """Return the shared config with a small bottom-up network."""
    cfg = config()
    cfg.bottom_up.update(SMALL)
    return cfg


def test_initial_values():
    """Xavier uniform: within +-sqrt(6 / (fan-in + fan-out)), std the limit over sqrt(3)."""
    torch.manual_seed(0)
    fpn = instantiate(config())
    for layer in (fpn.fpn_lateral2, fpn.fpn_lateral5, fpn.fpn_output3):
        out_channels, in_channels, height, width = layer.weight.shape
        limit = math.sqrt(6 / ((in_channels + out_channels) * height * width))
        assert layer.weight.abs().max().item() == pytest.approx(limit, rel=0.01)
        assert layer.weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.02)
        assert not layer.bias.any()


def test_levels(picture):
    """P6 is every second cell of P5; a finer level adds the repeated coarser one to its lateral."""
    fpn = instantiate(small())
    maps = fpn(picture)
    assert {name: tuple(value.shape[1:]) for name, value in maps.items()} == {
        "p2": (256, 16, 24),
        "p3": (256, 8, 12),
        "p4": (256, 4, 6),
        "p5": (256, 2, 3),
        "p6": (256, 1, 2),
    }
    assert torch.equal(maps["p6"], maps["p5"][:, :, ::2, ::2])
    bottom = fpn.bottom_up(picture)
    coarse = fpn.fpn_lateral5(bottom["res5"]).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    p4 = fpn.fpn_output4(fpn.fpn_lateral4(bottom["res4"]) + coarse)
    torch.testing.assert_close(maps["p4"], p4)


def test_norm_replaces_the_bias():
    fpn = instantiate({**small(), "norm": "GN"})
    assert fpn.fpn_lateral3.bias is None and fpn.fpn_output3.norm is not None
