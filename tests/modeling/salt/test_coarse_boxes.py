"""The loss of coarse boxes by hand: targets, weights, normalizers, and several priors per cell."""

from functools import partial
from math import log

import pytest
import torch
from detectron2.config import LazyConfig
from detectron2.structures import Boxes, Instances, pairwise_iou

from htd.errors import UserError
from htd.modeling.dense import BestScore, DenseCriterion, DensePredictions, LossTerm, WeightSum
from htd.modeling.dense.assigners import BACKGROUND, Assignment
from htd.modeling.dense.boxes import Priors
from htd.modeling.salt import AssignedBox, CoarseBoxLoss, CoarseWeightSum, RefinedBox
from htd.modeling.salt.coarse_boxes import best_prior_of_cells
from tests.configs.reduced import build, example
from tests.modeling.dense.reference import priced
from tests.modeling.htc.small import randomise

# Three cells of 8 pixels in a row, whose points are (4, 4), (12, 4) and (20, 4).
SHAPE, STRIDE = (1, 3), 8
# The object is 8 x 8 pixels around the first point. The first cell's coarse box is 2 pixels narrower, 6/8 of
# the object; the box that is predicted in the end is its upper half.
OBJECT = [0.0, 0.0, 8.0, 8.0]
COARSE = [0.25, 0.5, 0.5, 0.5]
REFINED = [0.0, 0.0, 8.0, 4.0]


class Fixed:
    """An assigner that says what it is told."""

    reads_predictions = False

    def __init__(self, *gt_index):
        self.gt_index = torch.tensor(gt_index)

    def __call__(self, *inputs):
        return Assignment(self.gt_index, (self.gt_index >= 0).float())


def priors(boxes):
    boxes = torch.tensor(boxes)
    return Priors(boxes, (SHAPE,), (STRIDE,), per_cell=len(boxes) // 3)


SQUARES = [[0.0, 0, 8, 8], [8, 0, 16, 8], [16, 0, 24, 8]]


def logit(probability):
    return log(probability / (1 - probability))


class Case:
    """One image; ``positive`` has the object of each prior.

    Attributes:
        boxes, coarse, logits: predictions that want a gradient.
        loss: the only one.
    """

    def __init__(
        self, positive, *, scores, normalizer, target=None, squares=SQUARES, coarse=COARSE, refined=REFINED
    ):
        count = len(squares)
        rows = [coarse, [float("nan")] * 4, [float("nan")] * 4]
        self.coarse = torch.tensor([rows], requires_grad=True)
        self.boxes = torch.tensor([[refined] * count], requires_grad=True)
        self.logits = torch.tensor([[[logit(s), -9.0] for s in scores]], requires_grad=True)
        loss = CoarseBoxLoss(weighting=BestScore(), target=target)
        term = LossTerm(name="loss_box_reg_init", loss=loss, normalizer=normalizer)
        criterion = DenseCriterion(assigner=Fixed(*positive), terms=[term])
        truth = Instances((8, 24), gt_boxes=Boxes([OBJECT]), gt_classes=torch.tensor([0]))
        predictions = DensePredictions(self.logits, self.boxes, coarse=self.coarse)
        (self.loss,) = criterion(priors(squares), predictions, self.boxes, [truth]).values()

    def gradient_of(self, *tensors):
        return torch.autograd.grad(self.loss, tensors, allow_unused=True)


FIRST = (0, BACKGROUND, BACKGROUND)


@pytest.mark.parametrize("target", [None, AssignedBox()])
@pytest.mark.parametrize("sums", [WeightSum, CoarseWeightSum])
@pytest.mark.parametrize(
    ("least", "wanted"),
    [
        # 1 - GIoU is 1/4 and the only weight 0.4: as published the weight is divided by itself.
        (0.0, 0.25),
        # By a sum of at least 1 it stays a factor.
        (1.0, 0.4 * 0.25),
        (0.3, 0.25),
    ],
)
def test_one_object(least, wanted, sums, target):
    normalizer = sums(weighting=BestScore(), least=least)
    case = Case(FIRST, scores=[0.4, 0.9, 0.9], normalizer=normalizer, target=target)
    assert case.loss.item() == pytest.approx(wanted, rel=1e-5)
    of_coarse, of_boxes, of_logits = case.gradient_of(case.coarse, case.boxes, case.logits)
    # A cell more to the left adds 8 x 8 of 64 square pixels; the other sides meet those of the object, where
    # the overlap falls as fast to one side as the enclosing box grows to the other.
    assert of_coarse[0, 0, 0].item() == pytest.approx(-wanted / 0.25, rel=1e-4)
    # What is not finite in cells without an object reaches nothing, nor does the loss reach the weights.
    assert not of_coarse[0, 1:].any()
    assert of_boxes is None and of_logits is None


def test_weights_of_two_objects():
    """Both cells have the object: 0.4 x 1/4 for the first and, for the other, 0.8 x its loss."""
    normalizer = CoarseWeightSum(weighting=BestScore(), least=0.0)
    case = Case((0, BACKGROUND, BACKGROUND), scores=[0.4, 0.8, 0.9], normalizer=normalizer)
    alone = case.loss.item()
    # The second cell's coarse box is the object's own: 1.5 cells to the left of its point, none to the right.
    loss = two_cells(normalizer, [[0.25, 0.5, 0.5, 0.5], [1.5, 0.5, -0.5, 0.5]], [0.4, 0.8])
    assert loss == pytest.approx(alone * 0.4 / (0.4 + 0.8), rel=1e-5)
    loss = two_cells(normalizer, [[1.0, 1.0, 1.0, 1.0], [0.25 + 1, 0.5, -0.5, 0.5]], [0.4, 0.8])
    # 64 of 256 square pixels, and 48 of 64.
    assert loss == pytest.approx((0.4 * 0.75 + 0.8 * 0.25) / (0.4 + 0.8), rel=1e-5)


def two_cells(normalizer, coarse, scores):
    """The loss where the first two cells have the object."""
    term = LossTerm(name="loss", loss=CoarseBoxLoss(weighting=BestScore()), normalizer=normalizer)
    truth = Instances((8, 24), gt_boxes=Boxes([OBJECT]), gt_classes=torch.tensor([0]))
    logits = torch.tensor([[[logit(s)] for s in (*scores, 0.9)]])
    boxes, rows = torch.tensor([SQUARES]), torch.tensor([[*coarse, [0.0] * 4]])
    criterion = DenseCriterion(assigner=Fixed(0, 0, BACKGROUND), terms=[term])
    found = criterion(priors(SQUARES), DensePredictions(logits, boxes, coarse=rows), boxes, [truth])
    return found["loss"].item()


def test_the_refined_box_as_the_target():
    """Half of the object: a coarse box that is the object loses 1/2, and the refined box learns nothing."""
    normalizer = CoarseWeightSum(weighting=BestScore(), least=1.0)
    chosen = {"scores": [0.4, 0.9, 0.9], "normalizer": normalizer}
    case = Case(FIRST, coarse=[0.5] * 4, target=RefinedBox(), **chosen)
    assert case.loss.item() == pytest.approx(0.4 * 0.5, rel=1e-5)
    of_coarse, of_boxes = case.gradient_of(case.coarse, case.boxes)
    assert of_boxes is None
    # Downwards the coarse box has too much: less of it is better.
    assert of_coarse[0, 0, 3] > 0
    assert Case(FIRST, coarse=[0.5] * 4, **chosen).loss.item() == pytest.approx(0, abs=1e-6)
    # The whole object as the refined box: the same as the object as the target.
    same = Case(FIRST, target=RefinedBox(), refined=OBJECT, **chosen)
    assert same.loss.item() == pytest.approx(0.4 * 0.25, rel=1e-5)


# Two priors at each point; the second of the first cell overlaps the object less, with half of its height.
PAIRS = [[0.0, 0, 8, 8], [0, 2, 8, 6], [8, 0, 16, 8], [8, 2, 16, 6], [16, 0, 24, 8], [16, 2, 24, 6]]


@pytest.mark.parametrize(
    ("positive", "weight"),
    [
        ((0, -1), 0.3),
        ((-1, 0), 0.6),
        # Both: the one with more overlap stands for the cell, whatever its score.
        ((0, 0), 0.3),
    ],
)
@pytest.mark.parametrize("least", [0.0, 1.0])
def test_one_of_several_priors_stands_for_a_cell(positive, weight, least):
    scores = [0.3, 0.6, 0.9, 0.9, 0.9, 0.9]
    normalizer = CoarseWeightSum(weighting=BestScore(), least=least)
    case = Case(
        (*positive, *[BACKGROUND] * 4), scores=scores, normalizer=normalizer, squares=PAIRS, target=None
    )
    assert case.loss.item() == pytest.approx(0.25 * (weight if least else 1), rel=1e-5)


def test_no_object():
    """The loss is 0 as are its gradients, also with next to nothing to divide by."""
    for least in (0.0, 1.0):
        normalizer = CoarseWeightSum(weighting=BestScore(), least=least)
        case = Case([BACKGROUND] * 3, scores=[0.4, 0.9, 0.9], normalizer=normalizer)
        assert case.loss == 0
        (of_coarse,) = case.gradient_of(case.coarse)
        assert not of_coarse.any()


ANCHORS = 9


@pytest.fixture(scope="module")
def case_of_cells():
    """What the reduced model's predictions cost: an image with objects, one with none."""
    model = randomise(build("configs/salt/salt_retinanet_r50_fpn_1x.py")).train()
    inputs = [example(3, seed=4), example(0, seed=5)]
    return priced(model, partial(model, inputs)), inputs[0]["instances"].gt_boxes


def test_one_anchor_stands_for_each_cell(case_of_cells):
    """Of those of its anchors that have an object the one that overlaps its object most, in a loop."""
    matched, objects = case_of_cells[0].targets, case_of_cells[1]
    overlap = pairwise_iou(type(objects)(matched.priors.boxes), objects).amax(dim=1)
    (prior_of_cell, positive_cell), shared = best_prior_of_cells(matched), 0
    assert positive_cell.shape == (2, len(matched.priors) // ANCHORS) and not positive_cell[1].any()
    for cell, prior in enumerate(prior_of_cell[0].tolist()):
        rows = [ANCHORS * cell + k for k in range(ANCHORS)]
        positive = [row for row in rows if matched.positive[0, row]]
        assert prior in rows and bool(positive) == positive_cell[0, cell].item()
        if positive:
            assert prior == max(positive, key=lambda row: overlap[row].item())
            shared += len(positive) > 1
    assert shared


def test_losses_of_coarse_boxes_are_divided_by_cells(case_of_cells):
    case, matched = case_of_cells[0], case_of_cells[0].targets
    positives = matched.positive.sum().item()
    cells = best_prior_of_cells(matched)[1].sum().item()
    assert case.norms["loss_box_reg_init"] == cells
    # The image without objects counts as one.
    assert case.norms["loss_box_reg"] == positives + 1 > cells + 1


def test_the_operator_is_plugged_in_once_and_beside_a_box_loss():
    plug_in_salt = LazyConfig.load("configs/common/models/salt.py", "plug_in_salt")
    with pytest.raises(UserError, match="already"):
        plug_in_salt(LazyConfig.load("configs/salt/salt_atss_r50_fpn_1x.py").model)
    with pytest.raises(UserError, match="dense detector"):
        plug_in_salt(LazyConfig.load("configs/baselines/faster_rcnn_r50_fpn_1x.py").model)
    config = LazyConfig.load("configs/baselines/atss_r50_fpn_1x.py").model
    config.criterion.terms[1].name = "loss_box"
    with pytest.raises(UserError, match="loss_box_reg"):
        plug_in_salt(config)
