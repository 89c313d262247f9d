"""The towers of T-Head under autocast: layers are brought to its type once, their means are not."""

import copy

import pytest
import torch
from torch import nn

from htd.modeling.dense import TaskFeatures
from htd.modeling.tood import InteractiveTowers

BF16 = 2**-7  # twice the spacing of its numbers from 1 on, relative


@pytest.fixture
def towers():
    torch.manual_seed(0)
    found = InteractiveTowers(channels=16, num_layers=3, attention_dim=6, num_groups=4)
    for module in found.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.2)
        if isinstance(module, nn.GroupNorm):
            # On CUDA autocast computes group norm in float32, on a CPU it does not.
            module.register_forward_pre_hook(lambda module, inputs: inputs[0].float())
    return found


def cast_at_each_use(towers, x):
    """The features without the one cast of all layers."""
    layers = []
    for layer in towers.interactive:
        x = layer(x)
        layers.append(x)
    pooled = torch.cat([layer.mean(dim=(2, 3), keepdim=True) for layer in layers], dim=1)
    return TaskFeatures(towers.classification(layers, pooled), towers.regression(layers, pooled), layers)


def run(towers, x, forward=lambda towers, x: towers(x, 0)):
    """Return the features and the gradients that they leave under autocast."""
    towers = copy.deepcopy(towers)
    with torch.autocast("cpu", torch.bfloat16):
        found = forward(towers, x)
    (found.classification.square().mean() + found.regression.square().mean()).backward()
    return found, [p.grad for p in towers.parameters()]


def test_values_and_gradients_are_those_of_a_cast_at_each_use(towers):
    x = torch.randn(2, 16, 9, 7, generator=torch.Generator().manual_seed(1))
    found, gradients = run(towers, x)
    wanted, others = run(towers, x, cast_at_each_use)
    assert {layer.dtype for layer in found.shared} == {torch.bfloat16}
    assert {layer.dtype for layer in wanted.shared} == {torch.float32}
    assert torch.equal(found.classification, wanted.classification)
    assert torch.equal(found.regression, wanted.regression)
    for mine, other in zip(gradients, others, strict=True):
        assert other.norm() > 0 and (mine - other).norm() <= BF16 * other.norm()


def test_means_are_of_the_layers_before_the_cast(towers):
    x, seen = torch.randn(1, 16, 9, 7), []
    towers.classification.attention.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    found, _ = run(towers, x)
    means = torch.cat([layer.float().mean(dim=(2, 3), keepdim=True) for layer in found.shared], dim=1)
    assert seen[0].dtype == torch.float32
    torch.testing.assert_close(seen[0], means, rtol=BF16, atol=0)
    assert not torch.equal(seen[0], means)


def test_nothing_is_cast_without_autocast(towers):
    found = towers(torch.randn(1, 16, 9, 7), 0)
    assert {layer.dtype for layer in found.shared} == {torch.float32}
