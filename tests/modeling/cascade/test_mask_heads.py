"""The mask head's shortcuts, and the branch's loss and results."""

import math

import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances

from htd.layers import ContinuousBoxes
from htd.modeling.cascade import (
    CascadeStage,
    ConvMaskHead,
    GroundTruth,
    IndependentHeads,
    MaskBranch,
    NoMasks,
    SampledPositives,
)


@pytest.fixture
def head():
    torch.manual_seed(0)
    head = ConvMaskHead(num_classes=5, channels=8, num_convs=2)
    torch.nn.init.normal_(head.predictor.bias)
    return head


@pytest.mark.parametrize("count", [0, 1, 6])
def test_prediction_of_one_class_equals_its_logits(head, count):
    """Values and all gradients, also of the features."""
    x = torch.randn(count, 8, 14, 14, requires_grad=True)
    classes = torch.arange(count) * 2 % 5
    weights = [x, *head.deconv.parameters(), *head.predictor.parameters()]
    features = head.extract(x)
    assert features.shape == x.shape
    every = head.logits(features)
    assert every.shape == (count, 5, 28, 28)
    wanted, found = every[torch.arange(count), classes], head.predict(features, classes)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    grad = torch.randn(count, 28, 28)
    found_grads = torch.autograd.grad(found, weights, grad, retain_graph=True)
    for ours, theirs in zip(found_grads, torch.autograd.grad(wanted, weights, grad), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_other_classes_get_no_gradient(head):
    found = head.predict(torch.rand(3, 8, 14, 14), torch.tensor([1, 1, 4]))
    gradient = torch.autograd.grad(found.sum(), head.predictor.weight)[0]
    assert [bool(g.any()) for g in gradient] == [False, True, False, False, True]


class Pooled(torch.nn.Module):
    """Gives the same features for every RoI; stands for a pooler."""

    def forward(self, context, rois):
        return torch.ones(len(rois), 8, 14, 14)


class Context:
    """As much of a context as a mask branch reads."""

    image_sizes = [(64, 64)]
    box_convention = ContinuousBoxes()

    def rois(self, boxes):
        return torch.cat(boxes)


def branch(head, weight=1.0, threshold=0.5, copies=1):
    return MaskBranch(
        features=Pooled(),
        heads=[head] * copies,
        flow=IndependentHeads(),
        roi_rule=SampledPositives(),
        loss_weights=[weight] * copies,
        threshold=threshold,
    )


def truth_and_samples(classes):
    """One object that covers the left half of the image, and RoIs that are the image."""
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[:, :, :32] = True
    target = Instances((64, 64), gt_boxes=Boxes(torch.tensor([[0.0, 0, 32, 64]])), gt_masks=BitMasks(mask))
    whole = Boxes(torch.tensor([[0.0, 0, 64, 64]]).repeat(len(classes), 1))
    samples = Instances((64, 64), proposal_boxes=whole, gt_classes=torch.tensor(classes, dtype=torch.int64))
    samples.gt_index = torch.zeros(len(classes), dtype=torch.int64)
    return GroundTruth([target]), [samples]


STAGE = CascadeStage(head=torch.nn.Identity(), sampler=None, box_transform=None, num_classes=5)


@pytest.mark.parametrize("classes", [[2], [2, 5, 2, 5], [0, 1, 5]])
def test_loss_is_the_mean_over_cells_of_positives(head, classes):
    """Logit b everywhere: half of the cells cost ln(1 + e^-b), half ln(1 + e^b); background costs nothing."""
    torch.nn.init.zeros_(head.predictor.weight)
    torch.nn.init.constant_(head.predictor.bias, 0.7)
    truth, samples = truth_and_samples(classes)
    loss = branch(head, weight=0.25).losses(0, Context(), STAGE, samples, None, truth)["loss_mask"]
    expected = 0.25 * (math.log1p(math.exp(-0.7)) + math.log1p(math.exp(0.7))) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("classes", [[], [5, 5]])
def test_without_positives_the_loss_is_an_attached_zero(head, classes):
    truth, samples = truth_and_samples(classes)
    loss = branch(head).losses(0, Context(), STAGE, samples, None, truth)["loss_mask"]
    assert loss.item() == 0
    loss.backward()
    assert all(p.grad is not None and not p.grad.any() for p in head.parameters())


def test_autocast_gives_finite_float32(head):
    truth, samples = truth_and_samples([2, 3])
    x, classes = torch.randn(3, 8, 14, 14), torch.tensor([0, 1, 4])
    given = [Instances((64, 64), pred_boxes=Boxes(torch.rand(2, 4)), pred_classes=torch.tensor([1, 2]))]
    with torch.autocast("cpu", torch.bfloat16):
        features = head.extract(x)
        logits = head.predict(features, classes)
        loss = branch(head).losses(0, Context(), STAGE, samples, None, truth)["loss_mask"]
        branch(head).add_masks(Context(), given)
    assert features.dtype == torch.bfloat16
    wanted = head.predict(head.extract(x), classes)
    # bfloat16 rounds by up to 0.4 %, in each of the head's layers.
    torch.testing.assert_close(logits.float(), wanted, atol=0.02 * wanted.abs().max().item(), rtol=0)
    assert loss.dtype == given[0].pred_masks.dtype == torch.float32
    assert torch.isfinite(loss)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters())


@pytest.mark.parametrize("threshold, expected", [(0.5, True), (0.7, False)])
def test_threshold_belongs_to_the_object(head, threshold, expected):
    detections = Instances((20, 30), pred_boxes=Boxes(torch.tensor([[5.0, 5, 15, 15]])))
    detections.pred_masks = torch.full((1, 1, 28, 28), 0.6)
    masks = branch(head, threshold=threshold).paste(detections).pred_masks
    assert masks.shape == (1, 20, 30) and masks.dtype == torch.bool
    assert bool(masks[0, 6:14, 6:14].all()) == expected
    assert masks.sum() <= 100


def test_without_a_branch_detections_have_no_masks():
    detections = Instances((20, 30), pred_boxes=Boxes(torch.zeros(1, 4)))
    NoMasks().add_masks(None, [detections])
    assert NoMasks().paste(detections) is detections
    assert not detections.has("pred_masks")
