"""Initial values of HTC's published mask and semantic heads."""

import math

import pytest
import torch
from detectron2.config import LazyConfig, instantiate

from tests.modeling.initial_values import assert_drawn_with


@pytest.fixture(scope="module")
def parts():
    """The mask branch and the context parts in full size."""
    heads = LazyConfig.load("configs/htc/htc_r50_fpn_1x.py").model.roi_heads
    torch.manual_seed(0)
    return torch.nn.ModuleDict(
        {"mask_branch": instantiate(heads.mask_branch), "context": instantiate(heads.context)}
    )


def kaiming(fan_out):
    return math.sqrt(2 / fan_out)


EXPECTED = {
    "mask_branch.heads.0.convs.0": kaiming(9 * 256),
    "mask_branch.heads.2.convs.3": kaiming(9 * 256),
    "mask_branch.heads.1.deconv": kaiming(4 * 256),
    "mask_branch.heads.1.predictor": kaiming(80),
    "mask_branch.flow.transforms.0": kaiming(256),
    "mask_branch.flow.transforms.1": kaiming(256),
    "context.semantic.laterals.0": kaiming(256),
    "context.semantic.laterals.4": kaiming(256),
    "context.semantic.convs.3": kaiming(9 * 256),
    "context.semantic.embedding": kaiming(256),
    "context.semantic.predictor": kaiming(183),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_weights_and_biases(parts, name):
    layer = parts.get_submodule(name)
    assert layer.bias is not None
    assert_drawn_with(layer, EXPECTED[name])


def test_every_layer_is_among_those():
    """A new layer must be given an expectation: layers by name without their numbers."""
    heads = LazyConfig.load("configs/htc/htc_r50_fpn_1x.py").model.roi_heads
    with torch.device("meta"):
        found = torch.nn.ModuleDict(
            {"mask_branch": instantiate(heads.mask_branch), "context": instantiate(heads.context)}
        )

    def kinds(names):
        return {".".join(part for part in name.split(".") if not part.isdigit()) for name in names}

    assert kinds(n.rpartition(".")[0] for n, _ in found.named_parameters()) == kinds(EXPECTED)
