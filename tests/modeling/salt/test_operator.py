"""The SALT operator: against the recorded arrays, and what must hold with any weights."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from htd.checkpoint import convert
from htd.layers import GroupNormOf
from htd.modeling.dense import TwinTowers
from htd.modeling.salt import SALTOperator, SALTTowers
from htd.modeling.salt.operator import class_points, regression_points, tap_offsets
from tests.modeling.dense.recorded import check, check_gradient, check_gradient_norms
from tests.modeling.reference import EXACT
from tests.recorded import arrays, published_weights, random_input, tensors

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


SEED, MAPS = 11, (2, 256, 6, 8)


class Run:
    """One pass of the operator, with what its parts read and gave.

    Attributes:
        regression, classification: features that it read.
        found: by recorded name, what is recorded of the way from them to the points.
        aligned: features that it gave, by recorded name.
        loss: of both, and of classes alone.
        parameters: by published name, in the recorded order.
    """

    def __init__(self, device):
        self.case = tensors("salt", "operator")
        operator = SALTOperator(channels=256, num_levels=1)
        weights, report = convert(published_weights("salt", "manifest_operator"), operator, source="salt")
        operator.load_state_dict(weights, strict=True)
        operator.to(device)
        ours = dict(operator.named_parameters())
        published = [str(key) for key in arrays("salt", "operator")["param_names"]]
        self.parameters = {key: ours[report.used[key]] for key in published}
        assert len(ours) == len(self.parameters)

        self.regression, self.classification = (
            random_input(name, MAPS, SEED).to(device) for name in ("reg_feat", "cls_feat")
        )
        self.regression.clamp_(min=0)
        for x in (self.regression, self.classification):
            x.requires_grad_()
        seen = {}
        for name in ("vectors", "factors", "regression", "classification"):
            operator.get_submodule(name).register_forward_hook(remember(seen, name))
        classification, regression, distances = operator(self.classification, self.regression, 0)
        self.aligned = {"reg_aligned": regression, "cls_aligned": classification}
        self.found = {
            "distance": distances,
            "scale_factors": seen["factors"][-1].sigmoid(),
            "cls_vectors": seen["vectors"][-1],
            "reg_offset": seen["regression"][1],
            "cls_offset": seen["classification"][1],
        }
        terms = {key: (x * self.upstream(key, x)).sum() for key, x in self.aligned.items()}
        self.loss, self.loss_of_classes = sum(terms.values()), terms["cls_aligned"]

    @staticmethod
    def upstream(name, x):
        return random_input(f"grad_{name}", tuple(x.shape), SEED).to(x.device)

    def gradients(self, loss):
        inputs = [*self.parameters.values(), self.regression, self.classification]
        *found, regression, classification = torch.autograd.grad(
            loss, inputs, retain_graph=True, allow_unused=True
        )
        return dict(zip(self.parameters, found, strict=True)), regression, classification


def remember(seen, name):
    """Return a hook that notes what a module reads and gives."""
    return lambda module, inputs, output: seen.update({name: (*inputs, output)})


@pytest.fixture(scope="module")
def run(device):
    return Run(device)


@pytest.mark.parametrize("name", ["distance", "scale_factors", "cls_vectors", "reg_offset", "cls_offset"])
def test_what_lays_out_the_points(run, name):
    check(run.found[name], run.case[name])


def test_points(run):
    points = regression_points(run.found["distance"], run.found["scale_factors"])
    check(points, run.case["reg_points"])
    stretched = class_points(run.found["cls_vectors"], points)
    check(stretched, run.case["cls_points"])
    for task, where in (("reg", points), ("cls", stretched)):
        check(tap_offsets(where), run.case[f"{task}_offset"])


def test_features_at_the_points(run):
    for name, maps in run.aligned.items():
        check(maps, run.case[name])
    check(run.loss, run.case["loss"])


def test_gradients(run):
    found, regression, classification = run.gradients(run.loss)
    check(regression, run.case["grad_reg_feat"])
    check(classification, run.case["grad_cls_feat"])
    check_gradient_norms(list(found.values()), run.case["param_grad_norm"])
    wholes = [key for key in run.case if key.startswith("grad:")]
    assert len(wholes) == 4
    for key in wholes:
        check_gradient(found[key.removeprefix("grad:")], run.case[key])


def test_losses_of_classes_do_not_move_the_points_of_regression(run):
    found, regression, classification = run.gradients(run.loss_of_classes)
    EXACT.check([g is not None and bool(g.any()) for g in found.values()], run.case["cls_only_used"])
    assert regression is None and run.case["cls_only_reg_feat_used"] == 0
    assert classification.any()
