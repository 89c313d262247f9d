"""What the tests of initial values share."""

import math

import pytest


def assert_drawn_with(layer, std):
    """Fail unless the weights of a layer are drawn with a standard deviation around 0 and its bias is 0."""
    count = layer.weight.numel()
    # Four standard errors of the standard deviation of so many normal values.
    assert layer.weight.std().item() == pytest.approx(std, rel=4 / math.sqrt(2 * count))
    assert abs(layer.weight.mean().item()) < 4 * std / math.sqrt(count)
    assert layer.bias is None or not layer.bias.any()
