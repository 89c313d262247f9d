"""Batch norm with fixed statistics, group norms for few channels, and norms by name."""

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d, get_norm
from torch import nn

from htd.layers import GroupNormOf
from htd.layers.norms import FixedBatchNorm2d, norm_layer
from tests.recorded import close


def filled(channels=2):
    norm = FixedBatchNorm2d(channels)
    norm.running_mean.copy_(torch.tensor([1.0, -2.0]))
    norm.running_var.copy_(torch.tensor([4.0, 0.25]) - norm.eps)
    norm.weight.data.copy_(torch.tensor([3.0, 0.5]))
    norm.bias.data.copy_(torch.tensor([0.1, 0.2]))
    return norm


@pytest.mark.parametrize("training", [True, False])
def test_values_by_hand(training):
    """Channel 0: (5 - 1) / 2 * 3 + 0.1 = 6.1. Channel 1: (-1 + 2) / 0.5 * 0.5 + 0.2 = 1.2."""
    x = torch.tensor([5.0, -1.0]).view(1, 2, 1, 1)
    out = filled().train(training)(x)
    torch.testing.assert_close(out.flatten(), torch.tensor([6.1, 1.2]))


def test_training_changes_the_affine_part_and_never_the_statistics():
    norm = filled().train()
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    optimizer = torch.optim.SGD(norm.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        norm(torch.randn(2, 2, 4, 4)).square().sum().backward()
        optimizer.step()
    after = norm.state_dict()
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(before[name], after[name])
    for name in ("weight", "bias"):
        assert (before[name] != after[name]).all()


def test_equals_detectron2s_frozen_norm_and_torchs_state_dict():
    norm, frozen = filled(), FrozenBatchNorm2d(2)
    frozen.load_state_dict({k: v for k, v in norm.state_dict().items() if k != "num_batches_tracked"})
    x = torch.randn(2, 2, 5, 3)
    torch.testing.assert_close(norm(x), frozen(x))
    assert norm.state_dict().keys() == nn.BatchNorm2d(2).state_dict().keys()


def test_every_device_gives_the_values_and_gradients_of_a_frozen_norm(device):
    x = torch.randn(2, 2, 5, 3, generator=torch.Generator().manual_seed(0))
    norm, frozen = filled().to(device), FrozenBatchNorm2d(2)
    frozen.load_state_dict({k: v for k, v in norm.state_dict().items() if k != "num_batches_tracked"})
    there, here = x.to(device).requires_grad_(), x.requires_grad_()
    out, wanted = norm(there), frozen(here)
    close(out, wanted, 1e-5)
    close(
        torch.autograd.grad(out.square().sum(), there)[0],
        torch.autograd.grad(wanted.square().sum(), here)[0],
        1e-4,
    )


def test_gradients():
    norm = filled().double()
    x = torch.randn(2, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    weight, bias = (p.detach().clone().requires_grad_() for p in (norm.weight, norm.bias))

    def run(x, weight, bias):
        return torch.func.functional_call(norm, {"weight": weight, "bias": bias}, (x,))

    assert torch.autograd.gradcheck(run, (x, weight, bias))


def test_bfloat16_input_and_no_images():
    norm = filled()
    x = torch.randn(1, 2, 3, 3)
    low = norm(x.bfloat16())
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), norm(x), atol=0.1, rtol=0.02)
    low.sum().backward()
    assert norm(torch.zeros(0, 2, 3, 3)).shape == (0, 2, 3, 3)


def test_norms_by_name():
    assert norm_layer("FixedBN") is FixedBatchNorm2d
    assert norm_layer("GN") == "GN"
    assert norm_layer("") == ""
    with pytest.raises(ValueError, match="FrozenGN"):
        norm_layer("FrozenGN")


def test_group_norms_by_hand():
    """Two groups of three channels with one value each: 1, 2, 3 and 10, 10, 40, each less its mean."""
    norm = GroupNormOf(num_groups=2)(6)
    out = norm(torch.tensor([1.0, 2, 3, 10, 10, 40]).view(1, 6, 1, 1)).flatten()
    third, half = 1.5**0.5, 0.5**0.5
    assert out.tolist() == pytest.approx([-third, 0, third, -half, -half, 2 * half], abs=1e-4)


@pytest.mark.parametrize("channels, groups", [(6, 4), (48, 32), (4, 8), (4, 0), (4, -2), (4, 2.0)])
def test_groups_that_do_not_divide_the_channels_are_refused(channels, groups):
    with pytest.raises(ValueError, match="num_groups"):
        GroupNormOf(num_groups=groups)(channels)


def test_what_makes_norms_goes_where_names_go():
    """Also where its groups do not divide the 32 channels that names are tried with."""
    groups = GroupNormOf(num_groups=3)
    assert norm_layer(groups) is groups
    made = get_norm(norm_layer(groups), 48)
    assert isinstance(made, nn.GroupNorm) and (made.num_groups, made.num_channels) == (3, 48)
