"""T-Head: against the recorded arrays, under autocast, and where there is almost nothing."""

import copy
from functools import partial

import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from torch import nn

from htd.modeling.dense import DensePredictions, TaskFeatures
from htd.modeling.tood import InteractiveTowers
from tests.configs.reduced import build, example, iterations_of_phases, reduced_model
from tests.modeling.dense.reference import STRIDES, decoded, priced
from tests.modeling.htc.small import randomise, without_gradient
from tests.modeling.reference import EXACT, Tolerance
from tests.modeling.tood.reference import ANCHOR_BASED, DEFORMABLE, R50, Forward, head
from tests.recorded import random_input, tensors

SCORES = Tolerance(absolute=2e-5)
BOXES = Tolerance(absolute=5e-4)  # cells
OFFSETS = Tolerance(absolute=1e-4)
ATTENTION = Tolerance(absolute=1e-5)
FEATURES = Tolerance(absolute=2e-4)
DECOMPOSED = Tolerance(absolute=1e-4)
# Name of the case -> config, images, size of the batch, seed of the maps.
CASES = {
    "head_forward_anchor_free": (R50, 2, (128, 160), 11),
    "head_forward_anchor_based": (ANCHOR_BASED, 1, (160, 96), 12),
    "head_forward_dcn2": (DEFORMABLE, 1, (128, 160), 13),
}


@pytest.fixture(scope="module", params=CASES)
def forward(request, device):
    return Forward(request.param, *CASES[request.param], device)


def recorded(case, name):
    """The levels that a case has of an array."""
    return {level: case[f"{name}_{level}"] for level in STRIDES if f"{name}_{level}" in case}


def test_scores(forward):
    wanted = recorded(forward.case, "cls_score")
    assert len(wanted) >= 4
    for level, scores in wanted.items():
        SCORES.check(forward.scores[level], scores)


@pytest.mark.parametrize("level", STRIDES)
def test_boxes_and_offsets(forward, level):
    BOXES.check(forward.boxes[level], forward.case[f"bbox_pred_{level}"])
    BOXES.check(forward.unsampled[level], forward.case[f"reg_bbox_{level}"])
    OFFSETS.check(forward.offsets[level], forward.case[f"reg_offset_{level}"])


@pytest.mark.parametrize("level", STRIDES)
def test_attention_and_score_map(forward, level):
    for task in ("cls_attn", "reg_attn"):
        weights = forward.seen[task][level].sigmoid().flatten(1)
        ATTENTION.check(weights, forward.case[f"{task}_{level}"])
    FEATURES.check(forward.seen["prob_logit"][level], forward.case[f"prob_logit_{level}"])


@pytest.mark.parametrize("name", ["inter6", "cls_feat", "cls_logit"])
def test_features_and_logits(forward, name):
    FEATURES.check(forward.seen[name]["p6"], forward.case[f"{name}_p6"])


def test_repaired_boxes(forward):
    """The same ones, at the places where the recorded box is the one before sampling, to the last bit."""
    for level, count in zip(STRIDES, forward.case["num_replaced"].tolist(), strict=True):
        sampled = forward.sampled[level]
        found = (sampled[:, :2] > sampled[:, 2:]).any(dim=1)
        final, before = (forward.case[f"{name}_{level}"] for name in ("bbox_pred", "reg_bbox"))
        EXACT.check(found, (final == before).all(dim=1))
        assert found.sum() == count
        repaired = found[:, None].expand_as(sampled)
        EXACT.check(forward.boxes[level][repaired], forward.unsampled[level][repaired])


def test_without_repair_only_the_repaired_boxes_differ(forward):
    """The form of the paper's authors, which leaves boxes inside out."""
    repaired, plain = forward.decoded(repair=True), forward.decoded(repair=False)
    inside_out = (plain[..., :2] > plain[..., 2:]).any(dim=-1)
    assert inside_out.sum() == forward.case["num_replaced"].sum() > 0
    assert ((repaired != plain).any(dim=-1) == inside_out).all()


@pytest.fixture(scope="module")
def decomposed(device):
    """The parts of the head for each task, the recorded arrays, and six layers as one map."""
    case, (model, _) = tensors("tood", "task_decomposition"), head(R50, device)
    x = random_input("decomp_feat", (2, 1536, 6, 7), 22).to(device)
    return case, model.head.towers, x


@torch.no_grad()
def test_decomposition_for_boxes(decomposed):
    case, towers, x = decomposed
    pooled = x.mean(dim=(2, 3), keepdim=True)
    attention = towers.regression.attention(pooled).sigmoid().flatten(1)
    ATTENTION.check(attention, case["reg_attention"])
    DECOMPOSED.check(towers.regression(x.split(256, dim=1), pooled), case["reg_out"])


@torch.no_grad()
def test_decomposition_with_given_means(decomposed):
    case, towers, x = decomposed
    pooled = random_input("decomp_avg", (2, 1536, 1, 1), 22).to(x.device)
    DECOMPOSED.check(towers.classification(x.split(256, dim=1), pooled), case["cls_out_given_avg"])


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


FREE, ANCHORED = "configs/tood/tood_r50_fpn_1x.py", "configs/tood/tood_r50_fpn_anchor_based_1x.py"
PHASES = (0, 1)


def trained(model, phase, inputs, reached="backbone"):
    """Take a step without an update; fail unless all is finite. Return what it cost.

    The head and the part of the name ``reached`` get their gradients.
    """
    model.criterion.set_iteration(iterations_of_phases(model)[phase])
    assert model.criterion.aligned_now == bool(phase)
    model.train().zero_grad(set_to_none=True)
    found = priced(model, partial(model, inputs))
    sum(found.losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in found.losses.values())
    assert not without_gradient(model.head) and not without_gradient(model.get_submodule(reached))
    return found


def assert_detects(model, inputs):
    model.eval().postprocessing.pre_nms.score_threshold = 0.0
    with torch.no_grad():
        for x in model(inputs):
            assert len(x["instances"]) and torch.isfinite(x["instances"].pred_boxes.tensor).all()


@pytest.fixture(scope="module", params=[FREE, ANCHORED])
def model(request):
    return randomise(build(request.param))


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("size", [(32, 32), (1, 1), (20, 200)])
def test_levels_of_one_cell(model, phase, size):
    """With a side of 32 the coarsest three have one row."""
    inputs = [example(0, size=size), example(1, seed=1, size=(32, 32))]
    found = trained(model, phase, inputs)
    assert [height for height, _ in found.targets.priors.shapes] == [4, 2, 1, 1, 1]
    assert_detects(model, inputs)


def coarse_model(levels):
    """An anchor-free model of the coarsest levels alone."""
    config = reduced_model(FREE)
    config.head_in_features = levels
    config.head.predictors.num_levels = len(levels)
    config.anchor_generator.strides = [STRIDES[level] for level in levels]
    config.anchor_generator.sizes = [[8 * STRIDES[level]] for level in levels]
    torch.manual_seed(0)
    return instantiate(config)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(
    ("levels", "priors"), [(["p4", "p5", "p6", "p7"], 7), (["p6", "p7"], 2), (["p7"], 1)]
)
def test_fewer_priors_than_candidates(levels, priors, phase):
    """The object is an anchor of p4. One prior alone, or the better of two, is no outlier for ATSS."""
    model = coarse_model(levels)
    truth = Instances((32, 32), gt_boxes=Boxes([[-48.0, -48, 80, 80]]), gt_classes=torch.tensor([2]))
    inputs = [example(0, size=(32, 32)) | {"instances": truth}]
    found = trained(model, phase, inputs, reached="backbone.top_block")
    assert len(found.targets.priors) == priors
    assert found.targets.positive.any() == (phase == 1 or priors > 2)
    assert_detects(model, inputs)


@pytest.mark.parametrize("phase", PHASES)
def test_one_class(phase):
    model = randomise(build(FREE, num_classes=1))
    inputs = [example(2, num_classes=1), example(0, seed=1, num_classes=1)]
    found = trained(model, phase, inputs)
    assert found.targets.predictions.logits.shape[2] == 1 and found.targets.positive.any()
    assert_detects(model, inputs)


class Given(torch.nn.Module):
    """Gives what it is told to, in half precision, as a convolution under autocast."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, x):
        return self.output


def half(*shape, seed):
    return 4 * torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


@torch.no_grad()
def test_predictions_under_autocast_are_those_of_float32(model):
    """Given the features of the boxes, the class logits, and what the corrections begin with."""
    predictors = copy.deepcopy(model.head.predictors)
    predictors.cls_score = Given(half(2, 4, 5, 6, seed=0))
    for corrector in (predictors.score_map, predictors.box_offsets):
        corrector[0].weight.zero_()  # only the biases remain
    x = half(2, 16, 5, 6, seed=1)
    wanted = predictors(TaskFeatures(x, x, [x.float()] * 6), 1)[:2]
    with torch.autocast("cpu", torch.bfloat16):
        found = predictors(TaskFeatures(x, x, [x] * 6), 1)[:2]
    for mine, other in zip(found, wanted, strict=True):
        assert mine.dtype == torch.float32 and torch.equal(mine, other)
        assert mine.std() > 0.1


@pytest.mark.parametrize("phase", PHASES)
def test_boxes_and_losses_under_autocast_are_those_of_float32(model, phase):
    model.criterion.set_iteration(iterations_of_phases(model)[phase])
    shapes = [(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)]
    features = [torch.zeros(2, 1, *shape) for shape in shapes]
    count, generator = sum(h * w for h, w in shapes), torch.Generator().manual_seed(0)
    logits = torch.randn(2, count, 4, generator=generator) - 3
    regression = torch.rand(2, count, 12, generator=generator)
    truth = [example(n, seed=n)["instances"] for n in (3, 0)]

    def step():
        inputs = logits.clone().requires_grad_(), regression.clone().requires_grad_()
        priors, predictions, boxes = decoded(model, features, DensePredictions(*inputs))
        losses = model.criterion(priors, predictions, boxes, truth)
        return [*losses.values(), boxes, *torch.autograd.grad(sum(losses.values()), inputs)]

    wanted = step()
    with torch.autocast("cpu", torch.bfloat16):
        found = step()
    assert wanted[1] > 0 and wanted[-1].any()
    for mine, other in zip(found, wanted, strict=True):
        assert mine.dtype == torch.float32 and torch.equal(mine, other)
