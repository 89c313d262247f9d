"""Initial values of SALT-Net's head, as published, and where the points of a new head lie."""

from functools import cache
from types import SimpleNamespace

import pytest
import torch
from detectron2.config import instantiate

from htd.modeling.dense.predictors import prior_logit
from tests.modeling.dense.reference import model_config, random_maps
from tests.modeling.initial_values import assert_drawn_with
from tests.modeling.salt.reference import DEFORMABLE, R50

TASKS = ("classification", "regression")
OPERATOR = ("coarse_conv", "distances", "factors", "vector_conv", "vectors", *TASKS)
TOWERS = [f"towers.towers.{task}.{i}" for task in TASKS for i in range(3)]
DRAWN = [
    *TOWERS,
    *(f"towers.operator.{name}" for name in OPERATOR),
    "predictors.bbox_pred",
    "predictors.quality.0",
    "predictors.quality.2",
]


@cache
def new_head(leaf):
    """A head as a training begins it."""
    torch.manual_seed(0)
    return instantiate(model_config(leaf).head).eval()


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("leaf", [R50, DEFORMABLE])
def test_weights_and_biases(leaf, name):
    assert_drawn_with(new_head(leaf).get_submodule(name), 0.01)


@pytest.mark.parametrize("leaf", [R50, DEFORMABLE])
def test_classes_begin_with_a_probability_of_a_hundredth(leaf):
    layer = new_head(leaf).predictors.cls_score
    assert_drawn_with(SimpleNamespace(weight=layer.weight, bias=None), 0.01)
    assert layer.bias.tolist() == [pytest.approx(prior_logit(0.01))] * 80


def test_norms_and_scales():
    head = new_head(R50)
    layers = (*DRAWN, "predictors.cls_score")
    rest = {name: p for name, p in head.named_parameters() if name.rpartition(".")[0] not in layers}
    norms = [f"{name}.norm" for name in TOWERS]
    norms += [f"towers.operator.{name}.norm" for name in ("coarse_conv", "vector_conv", *TASKS)]
    scales = [f"{part}.scales.{i}" for part in ("towers.operator", "predictors") for i in range(5)]
    assert set(rest) == {*scales, *(f"{norm}.{kind}" for norm in norms for kind in ("weight", "bias"))}
    for name, parameter in rest.items():
        assert (parameter == (0 if name.endswith("bias") else 1)).all()


@pytest.mark.parametrize("task", TASKS)
def test_the_last_deformable_layers_begin_with_half_of_an_ordinary_one(task):
    layer = new_head(DEFORMABLE).get_submodule(f"towers.towers.{task}.2")
    x = torch.randn(1, 256, 5, 6, generator=torch.Generator().manual_seed(0))
    offset, mask = layer.split(layer.offset(x))
    assert offset.shape == (1, 18, 5, 6) and not offset.any()
    assert mask.shape == (1, 9, 5, 6) and (mask == 0.5).all()


@torch.no_grad()
def test_what_a_new_head_says():
    """Many coarse distances are 0, points lie near the cell, and a class has half of a hundredth."""
    head, seen = new_head(R50), {}
    operator = head.towers.operator
    for task in TASKS:
        layer = operator.get_submodule(task)
        layer.register_forward_hook(lambda module, inputs, out, task=task: seen.update({task: inputs[1]}))
    level = random_maps(0, 2, 64, 96, "cpu")[0]
    found = head([level])
    # About half of them; that there are only four outputs makes the share vary from head to head.
    assert (found.coarse == 0).float().mean().item() == pytest.approx(0.5, abs=0.3)
    assert found.coarse.mean() < 0.5
    for task in TASKS:
        grid = torch.cartesian_prod(torch.arange(-1, 2), torch.arange(-1, 2)).flatten()[:, None, None]
        assert (seen[task] + grid).abs().mean() < 0.25
    # The quality of a box is a half, too.
    assert found.logits.sigmoid().mean().item() == pytest.approx(0.005, rel=0.05)
