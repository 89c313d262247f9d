"""Parameter groups of the optimizers in the configs."""

from pathlib import Path

import pytest
from detectron2.config import LazyConfig, instantiate
from torch import nn

OPTIM = str(Path(__file__).parents[2] / "configs" / "common" / "optim.py")


@pytest.fixture
def model():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2), nn.Linear(2, 2))
    model[3].requires_grad_(False)
    return model


def groups(name, model, *overrides):
    config = LazyConfig.apply_overrides(LazyConfig.load(OPTIM, name), list(overrides))
    config.params.model = model
    return instantiate(config).param_groups


def test_sgd_decays_every_trainable_parameter_in_one_group(model):
    (group,) = groups("SGD", model)
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.02, 0.9, 1e-4)
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert [id(p) for p in group["params"]] == [id(p) for p in trainable]


def test_adamw_does_not_decay_vectors(model):
    decays = {id(p): group["weight_decay"] for group in groups("AdamW", model) for p in group["params"]}
    assert len(groups("AdamW", model)) == 2
    for parameter in model[:3].parameters():
        assert decays[id(parameter)] == (0.01 if parameter.ndim > 1 else 0.0)


def test_overrides_reach_the_groups(model):
    overrides = ["params.weight_decay_norm=0.5", "params.bias_lr_factor=2", "+params.overrides.weight.lr=0.3"]
    rates, decays = {}, {}
    for group in groups("SGD", model, *overrides):
        for parameter in group["params"]:
            rates[id(parameter)], decays[id(parameter)] = group["lr"], group["weight_decay"]
    conv, norm = model[0], model[1]
    assert (rates[id(conv.weight)], rates[id(conv.bias)]) == (0.3, 0.04)
    assert (decays[id(conv.weight)], decays[id(norm.weight)]) == (1e-4, 0.5)
