"""What must hold for the SALT operator with any weights: places, gradients, batches, shifts, huge numbers."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from htd.layers import GroupNormOf
from htd.modeling.dense import TwinTowers
from htd.modeling.salt import SALTOperator, SALTTowers
from htd.modeling.salt.operator import class_points, regression_points, tap_offsets

CHANNELS = 16
# Factors that lay the nine points out as a 3x3 grid.
MIDDLE, LOW, HIGH = 0.0, -200.0, 200.0
GRID = (MIDDLE,) * 4 + (LOW, LOW, LOW, HIGH, MIDDLE, MIDDLE, HIGH, LOW, HIGH, HIGH)


def operator(norm=None, coarse=True, num_levels=1):
    """An operator whose points lie some cells around and differ from cell to cell."""
    torch.manual_seed(0)
    norm = GroupNormOf(num_groups=4) if norm is None else norm
    made = SALTOperator(CHANNELS, num_levels, norm=norm, coarse=coarse)
    for conv in made.modules():
        if isinstance(conv, nn.Conv2d):
            nn.init.normal_(conv.weight, std=0.5 / CHANNELS**0.5)
    nn.init.constant_(made.distances.bias, 1.5)
    nn.init.normal_(made.vectors.weight, std=0.02)
    return made


def maps(*shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(2)]


def predict(conv, *biases):
    """Let a layer predict these, whatever it sees."""
    nn.init.zeros_(conv.weight)
    conv.bias.data.copy_(torch.tensor(biases))


def test_a_box_as_large_as_the_kernel_is_a_plain_convolution():
    part = operator()
    predict(part.distances, 1, 1, 1, 1)
    predict(part.factors, *GRID)
    predict(part.vectors, *[0] * 18)
    inputs = maps(2, CHANNELS, 7, 9)
    *found, distances = part(*inputs, level=0)
    assert torch.equal(distances, torch.ones(2, 4, 7, 9))
    for mine, x, conv in zip(found, inputs, (part.classification, part.regression), strict=True):
        wanted = conv.norm(F.conv2d(x, conv.weight, padding=1)).relu()
        assert wanted.std() > 0.3
        torch.testing.assert_close(mine, wanted, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("task", "stretch"), [("regression", 1), ("classification", 2)])
def test_a_tap_reads_where_its_point_lies(task, stretch):
    """The second one: two cells up and three to the right; of classes with y as it is and x doubled."""
    part = operator(norm="")
    predict(part.distances, 1, 2, 3, 4)
    predict(part.factors, LOW, HIGH, *[LOW] * 12)
    doubled = torch.tensor(2.0).log().item()
    predict(part.vectors, *[0, doubled] * 9)
    weight = getattr(part, task).weight
    weight.data.zero_()
    weight.data[:, :, 0, 1] = torch.eye(CHANNELS)
    inputs = [x.abs() for x in maps(1, CHANNELS, 9, 14)]
    of_classes, of_boxes, _ = part(*inputs, level=0)
    found, x = (of_boxes, inputs[1]) if task == "regression" else (of_classes, inputs[0])
    torch.testing.assert_close(found[..., 2:, : -3 * stretch], x[..., :-2, 3 * stretch :], atol=1e-4, rtol=0)
    assert not found[..., :2, :].any() and not found[..., 1 - 3 * stretch :].any()


def test_points_lie_in_the_box_four_of_them_on_its_sides():
    generator = torch.Generator().manual_seed(0)
    distances, factors = (torch.rand(2, n, 5, 6, generator=generator) for n in (4, 14))
    left, top, right, bottom = (5 * distances).unbind(1)
    points = regression_points(5 * distances, factors)
    y, x = points[:, 0::2].unbind(1), points[:, 1::2].unbind(1)
    for found, wanted in ((y[1], -top), (x[3], -left), (x[5], right), (y[7], bottom)):
        torch.testing.assert_close(found, wanted)
    for k in range(9):
        assert ((y[k] >= -top - 1e-5) & (y[k] <= bottom + 1e-5)).all()
        assert ((x[k] >= -left - 1e-5) & (x[k] <= right + 1e-5)).all()
    # Each factor moves one coordinate.
    for k in range(14):
        changed = factors.clone()
        changed[:, k] = 1 - changed[:, k]
        moved = (regression_points(5 * distances, changed) != points).flatten(2).any(2).all(0)
        assert moved.sum() == 1


def test_offsets_are_y_then_x_of_each_tap():
    found = tap_offsets(torch.zeros(1, 18, 2, 3))[0, :, 0, 0]
    assert found.view(9, 2).tolist() == [[-y, -x] for y in (-1, 0, 1) for x in (-1, 0, 1)]


@pytest.mark.parametrize("vector", [-1e4, -1.0, 0.0, 2.0, 1e4])
def test_points_of_classes_stay_in_their_quadrants(vector):
    (points,), vectors = maps(2, 18, 3, 4)[:1], torch.full((2, 18, 3, 4), vector, requires_grad=True)
    points.requires_grad_()
    found = class_points(vectors, points)
    assert found.isfinite().all() and (found * points >= 0).all()
    if vector >= -1:
        assert torch.equal(found.sign(), points.sign())
    found.sum().backward()
    assert points.grad is None and vectors.grad.isfinite().all()


@torch.no_grad()
def test_a_batch_equals_its_images_one_by_one():
    part, inputs = operator(), maps(3, CHANNELS, 6, 7)
    together = part(*inputs, level=0)
    for i in range(3):
        for mine, other in zip(part(*(x[i, None] for x in inputs), level=0), together, strict=True):
            torch.testing.assert_close(mine, other[i, None], atol=1e-5, rtol=1e-5)
    assert together[2].max() > 1


@torch.no_grad()
def test_shifting_the_map_shifts_all_that_is_made_of_it():
    """Far from the border, and without a norm that sees it."""
    towers = TwinTowers(channels=CHANNELS, num_convs=1, num_groups=None)
    part = SALTTowers(towers=towers, operator=operator(norm="FixedBN"))
    (x, _), border, by = maps(1, CHANNELS, 30, 32), 11, (2, -1)
    for parameter in towers.parameters():
        nn.init.normal_(parameter, std=0.1)
    here, there = part(x, 0), part(x.roll(by, (2, 3)), 0)
    inner = (..., slice(border, -border), slice(border, -border))
    for name in ("classification", "regression", "coarse"):
        before, after = (getattr(features, name) for features in (here, there))
        torch.testing.assert_close(after[inner], before.roll(by, (2, 3))[inner], atol=1e-5, rtol=1e-5)
        assert before[inner].std() > 1e-2
    assert 2 < here.coarse.max() < 6


def test_losses_of_classes_do_not_move_the_points_of_boxes():
    part, inputs = operator(), maps(1, CHANNELS, 5, 6)
    for x in inputs:
        x.requires_grad_()
    of_classes, *_ = part(*inputs, level=0)
    (of_classes * maps(*of_classes.shape, seed=3)[0]).sum().backward()
    moved = {name.partition(".")[0] for name, p in part.named_parameters() if p.grad is not None}
    assert moved == {"vector_conv", "vectors", "classification"}
    assert inputs[1].grad is None and inputs[0].grad.any()


@pytest.mark.parametrize("coarse", [True, False])
def test_what_is_predicted_in_the_end_trains_everything(coarse):
    """Also the coarse box that is not handed out."""
    part, inputs = operator(coarse=coarse), maps(1, CHANNELS, 5, 6)
    *found, distances = part(*inputs, level=0)
    assert (distances is None) == (not coarse)
    sum((x * maps(*x.shape, seed=3)[0]).sum() for x in found).backward()
    assert all(p.grad is not None and p.grad.any() for p in part.parameters())


@torch.no_grad()
def test_each_level_has_a_scale():
    part, inputs = operator(num_levels=2), maps(1, CHANNELS, 4, 4)
    part.scales[1].fill_(-3)
    first, second = (part(*inputs, level=level)[2] for level in (0, 1))
    torch.testing.assert_close(second, 3 * first)
    assert (first >= 0).all() and first.any()


@pytest.mark.parametrize("size", [1e4, 1e8])
def test_huge_numbers_stay_finite(size):
    part = operator()
    for parameter in (part.distances.bias, part.vectors.bias, part.factors.bias):
        parameter.data.fill_(size)
    inputs = [size * x for x in maps(2, CHANNELS, 5, 6)]
    found = part(*inputs, level=0)
    sum(x.sum() for x in found).backward()
    assert all(x.isfinite().all() for x in found)
    assert all(p.grad.isfinite().all() for p in part.parameters())


@torch.no_grad()
def test_under_autocast_distances_are_float32():
    """Of the same hidden map they are the same: their convolution is not rounded."""
    part, (of_classes, of_boxes) = operator(), maps(1, CHANNELS, 6, 7)
    with torch.autocast("cpu", torch.bfloat16):
        hidden = part.coarse_conv(of_boxes)
        found = part(of_classes, of_boxes, level=0)
    assert found[2].dtype == torch.float32 and found[2].max() > 1
    assert torch.equal(found[2], part.distances(hidden.float()).relu())
    exact = part(of_classes, of_boxes, level=0)
    for mine, other in zip(found, exact, strict=True):
        assert mine.isfinite().all() and (mine - other).abs().mean() < 0.1


def keep(seen, module, inputs):
    seen.append(inputs)


def test_the_map_itself_is_added_to_the_class_features_alone():
    x, _ = maps(1, CHANNELS, 4, 5)
    towers, found = TwinTowers(channels=CHANNELS, num_convs=1, num_groups=4), {}
    for residual in (True, False):
        seen = []
        part = SALTTowers(towers=towers, operator=operator(), residual=residual)
        part.operator.register_forward_pre_hook(partial(keep, seen))
        part(x, 0)
        ((found[residual], of_boxes, _),) = seen
        assert torch.equal(of_boxes, towers(x, 0).regression)
    assert torch.equal(found[False], towers(x, 0).classification)
    assert torch.equal(found[True], found[False] + x)


def test_names_of_the_parameters():
    """Files of weights depend on them."""
    layers = {
        "coarse_conv": ("weight", "bias", "norm.weight", "norm.bias"),
        "vector_conv": ("weight", "bias", "norm.weight", "norm.bias"),
        "regression": ("weight", "norm.weight", "norm.bias"),
        "classification": ("weight", "norm.weight", "norm.bias"),
        "distances": ("weight", "bias"),
        "factors": ("weight", "bias"),
        "vectors": ("weight", "bias"),
        "scales": ("0", "1"),
    }
    wanted = {f"{layer}.{name}" for layer, names in layers.items() for name in names}
    assert set(operator(num_levels=2).state_dict()) == wanted
