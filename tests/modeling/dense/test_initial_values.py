"""Initial values of the baselines' heads, as published."""

from functools import cache

import pytest
import torch
from detectron2.config import LazyConfig, instantiate

from tests.modeling.initial_values import assert_drawn_with

HEADS = ("retinanet", "fcos", "atss", "gfl")


@cache
def head_of(name):
    torch.manual_seed(0)
    return instantiate(LazyConfig.load(f"configs/common/models/{name}.py").model).head


@pytest.fixture(params=HEADS)
def head(request):
    return head_of(request.param)


def test_towers(head):
    for layer in (*head.towers.classification, *head.towers.regression):
        assert_drawn_with(layer, 0.01)


def test_predictors(head):
    predictors = head.predictors
    assert_drawn_with(predictors.bbox_pred, 0.01)
    if predictors.centerness is not None:
        assert_drawn_with(predictors.centerness, 0.01)
    assert all(scale.item() == 1 for scale in predictors.scales)


def test_classes_begin_with_a_probability_of_a_hundredth(head):
    layer = head.predictors.cls_score
    torch.testing.assert_close(layer.bias, torch.full_like(layer.bias, -4.59512), atol=1e-5, rtol=0)
    torch.testing.assert_close(layer.weight.std().item(), 0.01, atol=1e-4, rtol=0)
