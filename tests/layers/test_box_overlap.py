"""Overlap of paired boxes, its losses and centerness: published values, hand numbers, degenerate boxes."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torchvision.ops import box_iou, generalized_box_iou

from htd.layers import centerness, giou_loss, iou_loss, paired_giou, paired_iou
from tests.recorded import close, tensors

# box, other, IoU, GIoU
BY_HAND = [
    ([0, 0, 2, 2], [0, 0, 2, 2], 1, 1),
    ([0, 0, 2, 2], [1, 1, 3, 3], 1 / 7, 1 / 7 - 2 / 9),
    ([0, 0, 1, 1], [2, 0, 3, 1], 0, -1 / 3),
    ([0, 0, 2, 2], [2, 0, 4, 2], 0, 0),  # they touch
    ([0, 0, 4, 4], [1, 1, 2, 2], 1 / 16, 1 / 16),
    ([1, 1, 1, 1], [0, 0, 2, 2], 0, 0),  # a point inside
    ([1, 1, 1, 1], [1, 1, 1, 1], 0, 0),  # two equal points: all areas 0, bounded from below
    # Inside out: signed area -1, no intersection, so the union is 4 - 1, within an enclosure of 4.
    ([2, 0, 1, 1], [0, 0, 2, 2], 0, -1 / 4),
]


def random_boxes(*shape, seed=0):
    corners = 10 * torch.rand(
        *shape, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    return corners.sort(dim=-2).values.flatten(-2)


@pytest.mark.parametrize("box, other, iou, giou", BY_HAND)
def test_overlap_by_hand(box, other, iou, giou):
    box, other = torch.tensor(box), torch.tensor(other)
    close(paired_iou(box, other), torch.tensor(iou), atol=1e-6)
    close(paired_giou(box, other), torch.tensor(giou), atol=1e-6)
    close(giou_loss(box, other), torch.tensor(1 - giou), atol=1e-6)
    close(iou_loss(box, other), torch.tensor(-math.log(max(iou, 1e-6))), atol=1e-5)


def test_giou_loss_equals_published():
    reference = tensors("salt", "gfl_units")
    boxes = reference["giou_pred"].requires_grad_()
    each = 2 * giou_loss(boxes, reference["giou_target"])
    (each * reference["dfl_weight"]).sum().backward()
    for found, wanted in ((each, reference["giou_per"]), (boxes.grad, reference["giou_grad"])):
        close(found, wanted, atol=max(1e-5 * wanted.abs().max().item(), 1e-6), rtol=1e-4)


@given(st.integers(0, 10**6))
def test_pairs_equal_the_diagonal_of_all_pairs(seed):
    boxes, others = random_boxes(2, 5, seed=seed)
    close(paired_iou(boxes, others), box_iou(boxes, others).diagonal(), atol=1e-6)
    close(paired_giou(boxes, others), generalized_box_iou(boxes, others).diagonal(), atol=1e-6)


def test_gradients_by_differences():
    boxes, others = (t.requires_grad_() for t in random_boxes(2, 3, 4))
    for function in (paired_iou, paired_giou, giou_loss):
        assert gradcheck(function, (boxes, others))
    overlapping = random_boxes(6, seed=1) + torch.tensor([0, 0, 10, 10])
    assert gradcheck(iou_loss, (overlapping.requires_grad_(), random_boxes(6) + torch.tensor([0, 0, 10, 10])))


def test_degenerate_boxes_have_finite_gradients():
    boxes = torch.tensor([box for box, *_ in BY_HAND], dtype=torch.float32).requires_grad_()
    others = torch.tensor([other for _, other, *_ in BY_HAND], dtype=torch.float32)
    for loss in (giou_loss, iou_loss):
        (grad,) = torch.autograd.grad(loss(boxes, others).sum(), boxes)
        assert grad.isfinite().all()


def test_half_precision_is_computed_in_float32():
    """The area of a box of 300 pixels overflows float16; leading shapes broadcast."""
    boxes = torch.tensor([[[0, 0, 300, 300.0]], [[0, 0, 300, 150]]]).half()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = paired_giou(boxes, boxes[0])
    assert found.dtype == torch.float32
    close(found, torch.tensor([[1.0], [0.5]]), atol=1e-6)


def test_no_boxes():
    boxes = torch.zeros(0, 4, requires_grad=True)
    (giou_loss(boxes, boxes.detach()).sum() + iou_loss(boxes, boxes.detach()).sum()).backward()
    assert boxes.grad.shape == (0, 4)
    assert centerness(torch.zeros(0, 2), boxes).shape == (0,)


def test_centerness_by_hand():
    box = torch.tensor([0.0, 0, 8, 4])
    points = torch.tensor([[4.0, 2], [2, 2], [2, 1], [0, 2], [8, 4], [-1, 2], [4, 5], [-1, -1], [100, 100]])
    # Of (2, 1): sqrt(2/6 * 1/3). On the border and outside, also beyond two sides at once: 0.
    expected = torch.tensor([1, math.sqrt(1 / 3), 1 / 3, 0, 0, 0, 0, 0, 0])
    close(centerness(points, box), expected, atol=1e-6)


def test_centerness_of_a_box_without_area_is_zero():
    box = torch.tensor([3.0, 3, 3, 3], requires_grad=True)
    value = centerness(torch.tensor([[3.0, 3.0], [0, 0]]), box)
    assert torch.equal(value, torch.zeros(2))
    assert not value.requires_grad
