"""Coding of boxes."""

import math

import pytest
import torch
from detectron2.modeling.box_regression import Box2BoxTransform

from htd.layers.box_coder import ClampedBox2BoxTransform, clip_boxes
from tests.recorded import tensors

WEIGHTS = {"rpn": (1, 1, 1, 1), "s0": (10, 10, 5, 5), "s1": (20, 20, 10, 10)}


@pytest.mark.parametrize("stage", WEIGHTS)
def test_reference(stage):
    case = tensors("htd", "box_coder")
    coder = ClampedBox2BoxTransform(WEIGHTS[stage])
    decoded = coder.apply_deltas(case["deltas"], case["boxes"])
    torch.testing.assert_close(decoded, case[f"decode_{stage}"], rtol=1e-6, atol=2e-3)
    clipped = clip_boxes(decoded, tuple(case["image_hw"].tolist()))
    torch.testing.assert_close(clipped, case[f"decode_clip_{stage}"], rtol=1e-6, atol=2e-3)
    valid = case["valid"] == 1
    encoded = coder.get_deltas(case["boxes"][valid], case["gt"][valid])
    torch.testing.assert_close(encoded, case[f"encode_{stage}"], rtol=0, atol=1e-3)


def test_by_hand():
    """A 10 x 20 box at (0, 0) and one of 20 x 10 at (5, 5): centres (5, 10) and (15, 10)."""
    box, target = torch.tensor([[0.0, 0.0, 10.0, 20.0]]), torch.tensor([[5.0, 5.0, 25.0, 15.0]])
    coder = ClampedBox2BoxTransform((10, 10, 5, 5))
    deltas = coder.get_deltas(box, target)
    wanted = torch.tensor([[10.0, 0.0, 5 * math.log(2), -5 * math.log(2)]])
    torch.testing.assert_close(deltas, wanted)
    torch.testing.assert_close(coder.apply_deltas(deltas, box), target)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("factor", [1000 / 16, 2])
def test_growth_and_shrinking_have_the_same_limit(sign, factor):
    coder = ClampedBox2BoxTransform((1, 1, 1, 1), scale_clamp=math.log(factor))
    decoded = coder.apply_deltas(sign * torch.tensor([[0.0, 0, 9, 50]]), torch.tensor([[0.0, 0, 16, 16]]))
    half = 8.0 * factor**sign
    torch.testing.assert_close(decoded, torch.tensor([[8 - half, 8 - half, 8 + half, 8 + half]]))


def test_equals_detectron2_within_the_limits_for_several_sets_of_deltas():
    boxes = torch.rand(6, 4) * 50
    boxes[:, 2:] += boxes[:, :2] + 1
    deltas = torch.randn(6, 12)
    ours, theirs = (coder((2, 3, 4, 5)) for coder in (ClampedBox2BoxTransform, Box2BoxTransform))
    torch.testing.assert_close(ours.apply_deltas(deltas, boxes), theirs.apply_deltas(deltas, boxes))
    target = boxes.flip(0)
    torch.testing.assert_close(ours.get_deltas(boxes, target), theirs.get_deltas(boxes, target))


def test_gradients_precision_and_no_boxes():
    coder = ClampedBox2BoxTransform((10, 10, 5, 5))
    boxes = torch.tensor([[0.0, 1.0, 8.0, 6.0], [2.0, 2.0, 3.0, 9.0]], dtype=torch.float64)
    deltas = torch.randn(2, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda d: coder.apply_deltas(d, boxes), deltas)
    assert coder.apply_deltas(deltas.half(), boxes.half()).dtype == torch.float32
    assert coder.apply_deltas(torch.zeros(0, 8), torch.zeros(0, 4)).shape == (0, 8)
    assert coder.get_deltas(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0, 4)


def test_clipping_keeps_leading_axes():
    boxes = torch.tensor([[[-3.0, -4.0, 30.0, 40.0], [1.0, 2.0, 3.0, 4.0]]])
    clipped = clip_boxes(boxes, (20, 10))
    torch.testing.assert_close(clipped, torch.tensor([[[0.0, 0.0, 10.0, 20.0], [1.0, 2.0, 3.0, 4.0]]]))
