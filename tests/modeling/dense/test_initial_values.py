"""Initial values of all heads, as published."""

from types import SimpleNamespace

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from torch import nn

from tests.modeling.initial_values import assert_drawn_with

LEAVES = (
    *(f"baselines/{name}_r50_fpn_1x" for name in ("retinanet", "fcos", "atss", "gfl")),
    *("tood/tood_r50_fpn_1x", "tood/tood_r101_fpn_dcnv2_2x_ms"),
    *("salt/salt_r50_fpn_1x", "salt/salt_r2_101_fpn_dcnx_2x_ms"),
)
# Parts of names of layers that are drawn with 0.001; all others are with 0.01.
SMALL = ("attention", "box_offsets")
# Their biases make a probability of 0.01.
RARE = ("predictors.cls_score", "predictors.score_map.2")


@pytest.mark.parametrize("leaf", LEAVES)
def test_initial_values(leaf):
    torch.manual_seed(0)
    head, seen = instantiate(LazyConfig.load(f"configs/{leaf}.py").model.head), set()
    for name, layer in head.named_modules():
        if isinstance(layer, nn.GroupNorm):
            assert (layer.weight == 1).all() and not layer.bias.any()
        elif name.endswith(".offset"):  # of deformable layers: zero offsets and masks of a half
            assert not layer.weight.any() and not layer.bias.any()
        elif getattr(layer, "weight", None) is not None:
            bias = None if name in RARE else layer.bias
            std = 0.001 if any(part in name for part in SMALL) else 0.01
            assert_drawn_with(SimpleNamespace(weight=layer.weight, bias=bias), std)
            if name in RARE:
                assert layer.bias.tolist() == [pytest.approx(-4.59512)] * len(layer.bias)
        else:
            continue
        seen |= {f"{name}.{key}" for key, _ in layer.named_parameters(recurse=False)}
    rest = {name: p for name, p in head.named_parameters() if name not in seen}
    assert all("scales" in name and p == 1 for name, p in rest.items())
    assert len(seen) >= 20
