"""Initial values of TSD's head, as published."""

import math

import pytest
import torch
from detectron2.config import LazyConfig, instantiate

from tests.modeling.initial_values import assert_drawn_with

ROI_FEATURES, HIDDEN, TRUNK = 256 * 7 * 7, 1024, 256


def stages():
    return LazyConfig.load("configs/common/models/tsd_faster.py").model.roi_heads


@pytest.fixture(scope="module")
def head():
    torch.manual_seed(0)
    return instantiate(stages()).stages[0].head


DRAWN = {
    "trunk": 1 / math.sqrt(ROI_FEATURES),
    "classification.shift.0": 1 / math.sqrt(TRUNK),
    "classification.shift.2": 1 / math.sqrt(TRUNK),
    "regression.shift.0": 1 / math.sqrt(TRUNK),
    "regression.shift.2": 1 / math.sqrt(TRUNK),
    "classification.fcs.0": 1 / math.sqrt(ROI_FEATURES),
    "classification.fcs.1": 1 / math.sqrt(HIDDEN),
    "regression.fcs.0": 1 / math.sqrt(ROI_FEATURES),
    "regression.fcs.1": 1 / math.sqrt(HIDDEN),
    "sibling.fcs.0": 1 / math.sqrt(ROI_FEATURES),
    "sibling.fcs.1": 1 / math.sqrt(HIDDEN),
    "sibling.cls_score": 0.01,
    "sibling.bbox_pred": 0.001,
}
# The published predictors of the towers keep the initialization of PyTorch.
LEFT_ALONE = ("classification.cls_score", "regression.bbox_pred")


@pytest.mark.parametrize("name", DRAWN)
def test_weights_and_biases(head, name):
    layer = head.get_submodule(name)
    assert layer.bias is not None
    assert_drawn_with(layer, DRAWN[name])


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_predictors_of_the_towers(head, name):
    """Uniform within 1 / sqrt(inputs), weights and biases."""
    layer, bound = head.get_submodule(name), 1 / math.sqrt(HIDDEN)
    for values in (layer.weight, layer.bias):
        assert values.abs().max() <= bound
        # Four standard errors; the fourth moment of a uniform variable is 9 / 5 of its squared variance.
        spread = 4 * math.sqrt(0.8 / (4 * values.numel()))
        assert values.std().item() == pytest.approx(bound / math.sqrt(3), rel=spread)


def test_every_layer_is_among_those():
    """A new layer must be given an expectation."""
    with torch.device("meta"):
        parameters = instantiate(stages()).stages[0].head.named_parameters()
    assert {name.rpartition(".")[0] for name, _ in parameters} == {*DRAWN, *LEFT_ALONE}


def test_sizes():
    """The published numbers of parameters, less the box of the background."""
    with torch.device("meta"):
        head = instantiate(stages()).stages[0].head

    def count(part):
        return sum(p.numel() for p in part.parameters())

    assert count(head.trunk) == (ROI_FEATURES + 1) * TRUNK
    towers = (ROI_FEATURES + 1) * HIDDEN + (HIDDEN + 1) * HIDDEN
    assert count(head.sibling) == towers + (HIDDEN + 1) * (81 + 320)
    assert head.classification.shift[2].weight.shape == (98, TRUNK)
    assert head.regression.shift[2].weight.shape == (2, TRUNK)
