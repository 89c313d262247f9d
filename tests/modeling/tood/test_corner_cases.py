"""TOOD where there is almost nothing: no objects, single cells, few priors, one class; and under autocast."""

import copy
from functools import partial

import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances

from htd.modeling.dense import DensePredictions
from htd.modeling.dense.head import TaskFeatures
from tests.configs.reduced import build, example, iterations_of_phases, reduced_model
from tests.modeling.dense.reference import STRIDES, decoded, priced
from tests.modeling.htc.small import randomise, without_gradient

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
@pytest.mark.parametrize("counts", [(0,), (0, 2), (3, 0, 1)])
def test_images_with_and_without_objects(model, phase, counts):
    found = trained(model, phase, [example(count, seed=i) for i, count in enumerate(counts)])
    assert (found.losses["loss_box_reg"] > 0) == any(counts)
    assert found.losses["loss_cls"] > 0
    assert found.targets.positive.any(dim=1).tolist() == [count > 0 for count in counts]


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
