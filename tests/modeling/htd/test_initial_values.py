"""Initial values of HTD's published heads."""

import math

import pytest
import torch
from detectron2.config import instantiate

from tests.modeling.initial_values import assert_drawn_with


@pytest.fixture(scope="module")
def heads(model_config):
    torch.manual_seed(0)
    return instantiate(model_config.roi_heads)


def xavier_uniform(fan_in, fan_out):
    return math.sqrt(2 / (fan_in + fan_out))


def kaiming_fan_out(out_channels):
    return math.sqrt(2 / (9 * out_channels))


EXPECTED = {
    "stages.0.head.fcs.0": xavier_uniform(12544, 1024),
    "stages.0.head.fcs.1": xavier_uniform(1024, 1024),
    "stages.0.head.cls_score": 0.01,
    "stages.0.head.bbox_pred": 0.001,
    "stages.1.head.classification.fcs.0": xavier_uniform(12544, 1024),
    "stages.1.head.classification.graph.transforms.3": xavier_uniform(1024, 1024),
    "stages.1.head.classification.cls_score": 0.01,
    "stages.1.head.regression.tower.0": kaiming_fan_out(576),
    "stages.1.head.regression.tower.3": kaiming_fan_out(1024),
    "stages.1.head.regression.bbox_pred": 0.001,
    "context.global_vector.convs.2": kaiming_fan_out(256),
    "context.global_vector.fc": 0.01,
}


@pytest.mark.parametrize("name", EXPECTED)
def test_weights_and_biases(heads, name):
    assert_drawn_with(heads.get_submodule(name), EXPECTED[name])


def test_attention_has_pytorchs_default(heads):
    first, _, second = heads.stages[1].head.regression.features.terms[0].attention
    for layer, fan_in in ((first, 256), (second, 128)):
        bound = 1 / math.sqrt(fan_in)
        assert layer.weight.abs().max() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.2)


def test_group_norms_begin_as_identity(heads):
    for layer in list(heads.stages[1].head.regression.tower)[:3]:
        assert layer.norm.weight.eq(1).all() and layer.norm.bias.eq(0).all()
