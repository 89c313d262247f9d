"""Boxes: coding, the two conventions, overlap, centerness and matching."""

import math

import pytest
import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Boxes, pairwise_iou
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torchvision.ops import box_iou, generalized_box_iou

from htd.layers import (
    ClampedBox2BoxTransform,
    ContinuousBoxes,
    HardNMS,
    InclusiveBoxes,
    as_areas,
    as_pixels,
    centerness,
    giou_loss,
    iou_loss,
    low_quality_matches,
    paired_iou,
)
from htd.layers.boxes import clip_boxes
from htd.modeling.cascade import LevelRule
from tests.recorded import close, tensors

WEIGHTS = {"rpn": (1, 1, 1, 1), "s0": (10, 10, 5, 5), "s1": (20, 20, 10, 10)}


@pytest.mark.parametrize("stage", WEIGHTS)
def test_coding_equals_published(stage):
    case = tensors("htd", "box_coder")
    coder = ClampedBox2BoxTransform(WEIGHTS[stage])
    decoded = coder.apply_deltas(case["deltas"], case["boxes"])
    torch.testing.assert_close(decoded, case[f"decode_{stage}"], rtol=1e-6, atol=2e-3)
    clipped = clip_boxes(decoded, tuple(case["image_hw"].tolist()))
    torch.testing.assert_close(clipped, case[f"decode_clip_{stage}"], rtol=1e-6, atol=2e-3)
    valid = case["valid"] == 1
    encoded = coder.get_deltas(case["boxes"][valid], case["gt"][valid])
    torch.testing.assert_close(encoded, case[f"encode_{stage}"], rtol=0, atol=1e-3)


def test_coding_by_hand():
    """A 10 x 20 box at (0, 0) and one of 20 x 10 at (5, 5): centers (5, 10) and (15, 10)."""
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


def test_gradients_precision_and_no_boxes_of_coding():
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


SEEDS = st.integers(0, 10**6)
# The one in the middle is narrower than a pixel: its last pixel comes before its first.
PIXELS = torch.tensor([[2.0, 3, 11, 22], [5, 5, 4.4, 9], [0, 0, 0, 0]], dtype=torch.float64)


def some_pixels(seed, count=12, side=40.0):
    """Return boxes by first and last pixels, some of them narrower than a pixel."""
    generator = torch.Generator().manual_seed(seed)
    first, size = (torch.rand(count, 2, generator=generator, dtype=torch.float64) * side for _ in range(2))
    size[::4, 0] = 0.3
    return torch.cat([first, first + size - 1], dim=1)


def iou_of_pixels(a, b):
    """IoU of two boxes by first and last pixels."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + 1)
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + 1)
    areas = sum((box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b))
    return width * height / (areas - width * height)


def encoded(box, target):
    """Deltas, of standard deviation 1, between boxes by first and last pixels."""
    (x, y, w, h), (tx, ty, tw, th) = (
        ((b[0] + b[2]) / 2, (b[1] + b[3]) / 2, b[2] - b[0] + 1, b[3] - b[1] + 1) for b in (box, target)
    )
    return [(tx - x) / w, (ty - y) / h, math.log(tw / w), math.log(th / h)]


def decoded(box, deltas):
    """The first and last pixels that deltas of standard deviation 1 lead to."""
    x, y, w, h = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0] + 1, box[3] - box[1] + 1
    dx, dy, dw, dh = deltas
    limit = abs(math.log(16 / 1000))
    x, y = x + w * dx, y + h * dy
    w, h = (side * math.exp(min(max(d, -limit), limit)) for side, d in ((w, dw), (h, dh)))
    return [x - w / 2 + 0.5, y - h / 2 + 0.5, x + w / 2 - 0.5, y + h / 2 - 0.5]


def test_areas_and_pixels_are_inverse():
    areas = as_areas(PIXELS)
    torch.testing.assert_close(areas[0], torch.tensor([2.0, 3, 12, 23], dtype=torch.float64))
    torch.testing.assert_close(as_pixels(areas), PIXELS)
    assert as_areas(torch.zeros(0, 3, 4)).shape == as_pixels(torch.zeros(0, 3, 4)).shape == (0, 3, 4)


def test_clipping_by_hand():
    """In 30 x 40 pixels the last ones are 29 and 39. A box beyond the image keeps the pixel next to it."""
    pixels = torch.tensor([[-3.0, -2, 50, 60], [45, 5, 48, 9], [-9, -9, -5, 4], [39, 29, 39, 29]])
    wanted = torch.tensor([[0.0, 0, 39, 29], [39, 5, 39, 9], [0, 0, 0, 4], [39, 29, 39, 29]])
    clipped = InclusiveBoxes().clip(as_areas(pixels), (30, 40))
    assert torch.equal(as_pixels(clipped), wanted)
    assert torch.equal(InclusiveBoxes().clip(as_areas(pixels)[None, :2], (30, 40)), clipped[None, :2])
    continuous = ContinuousBoxes().clip(as_areas(pixels)[1:2], (30, 40))
    assert continuous.tolist() == [[40, 5, 40, 10]]


def test_rescaling_by_hand():
    """Numbers of pixels are halved in x and doubled in y; 10 pixels from 4 to 13 become 2 to 6.5."""
    pixels = torch.tensor([[4.0, 10, 13, 29]])
    found = InclusiveBoxes().rescale(as_areas(pixels), (50, 100), (100, 50))
    assert as_pixels(found).tolist() == [[2, 20, 6.5, 58]]
    assert found.tolist() == [[2, 20, 7.5, 59]]
    assert ContinuousBoxes().rescale(as_areas(pixels), (50, 100), (100, 50)).tolist() == [[2, 20, 7, 60]]


@pytest.mark.parametrize(
    ("convention", "beyond"), [(InclusiveBoxes(), [0, 0, 0, 1, 1]), (ContinuousBoxes(), [0, 0, 1, 1, 1])]
)
def test_what_is_inside_by_hand(convention, beyond):
    """The last pixel of 20 is 19, so 19.5 is within, but 20 is not; as an end of an area 20 is not within."""
    ends = [5.0, 18.9, 19, 20, 20.5]
    wanted = [not bool(b) for b in beyond]
    along_x = as_areas(torch.tensor([[0, 0, end, 3] for end in ends]))
    along_y = along_x[:, [1, 0, 3, 2]]
    assert convention.inside(along_x, (99, 20)).tolist() == wanted
    assert convention.inside(along_y, (20, 99)).tolist() == wanted
    assert convention.inside(along_x, (99, 18), 2).tolist() == wanted
    starts = as_areas(torch.tensor([[0.0, 0, 5, 5], [-0.1, 0, 5, 5], [0, -0.1, 5, 5], [-2, -2, 5, 5]]))
    assert convention.inside(starts, (20, 20)).tolist() == [True, False, False, False]
    assert convention.inside(starts, (20, 20), 2).tolist() == [True] * 4


def test_iou_of_pixels_by_hand():
    """10 x 20 and 0.4 x 5 pixels, the second within the first; a single pixel outside of both."""
    areas = Boxes(as_areas(PIXELS))
    torch.testing.assert_close(
        pairwise_iou(areas, areas), torch.tensor([[1, 0.01, 0], [0.01, 1, 0], [0, 0, 1]])
    )


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_iou_is_that_with_one_more_pixel(seed):
    a, b = some_pixels(seed), some_pixels(seed + 1)
    wanted = torch.tensor([[iou_of_pixels(one, other) for other in b.tolist()] for one in a.tolist()])
    found = pairwise_iou(Boxes(as_areas(a)), Boxes(as_areas(b)))
    # Detectron2 keeps boxes in float32: coordinates up to 80 pixels are off by 4e-6, and some boxes 0.3 wide.
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_suppression_of_pixels_by_hand():
    """3 x 1 and 2 x 1 pixels overlap by 2 / 3; their corners, two and one apart, by a half of nothing."""
    pixels, scores = torch.tensor([[0.0, 0, 2, 0], [1, 0, 2, 0]]), torch.tensor([0.9, 0.8])
    classes = torch.zeros(2, dtype=torch.int64)
    assert HardNMS(iou_threshold=0.6)(as_areas(pixels), scores, classes)[0].tolist() == [0]
    assert HardNMS(iou_threshold=0.7)(as_areas(pixels), scores, classes)[0].tolist() == [0, 1]
    assert HardNMS(iou_threshold=0.6)(pixels, scores, classes)[0].tolist() == [0, 1]


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, threshold=st.sampled_from([0.1, 0.3, 0.5]))
def test_suppression_is_that_with_one_more_pixel(seed, threshold):
    pixels = some_pixels(seed, count=30)
    scores = torch.rand(30, generator=torch.Generator().manual_seed(seed))
    classes = torch.arange(30) % 2
    kept = []
    for row in scores.argsort(descending=True, stable=True).tolist():
        rivals = [k for k in kept if classes[k] == classes[row]]
        if all(iou_of_pixels(pixels[k].tolist(), pixels[row].tolist()) <= threshold for k in rivals):
            kept.append(row)
    assert HardNMS(iou_threshold=threshold)(as_areas(pixels), scores, classes)[0].tolist() == kept


def test_coding_of_pixels_by_hand():
    """Pixels 0 to 9 (10 of them, middle 4.5) to 10 to 29 (20 of them, middle 19.5)."""
    coder = ClampedBox2BoxTransform((1, 1, 1, 1))
    box, target = torch.tensor([[0.0, 0, 9, 9]]), torch.tensor([[10.0, 0, 29, 9]])
    deltas = coder.get_deltas(as_areas(box), as_areas(target))
    torch.testing.assert_close(deltas, torch.tensor([[1.5, 0, math.log(2), 0]]))
    torch.testing.assert_close(as_pixels(coder.apply_deltas(deltas, as_areas(box))), target)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_coding_is_that_with_one_more_pixel(seed):
    box, target = some_pixels(seed), some_pixels(seed + 1)
    coder = ClampedBox2BoxTransform((10, 10, 5, 5))
    found = coder.get_deltas(as_areas(box), as_areas(target)) / torch.tensor([10, 10, 5, 5])
    wanted = [encoded(*pair) for pair in zip(box.tolist(), target.tolist(), strict=True)]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64))
    generator = torch.Generator().manual_seed(seed)
    # Some beyond what a box may grow or shrink.
    deltas = torch.randn(len(box), 4, generator=generator, dtype=torch.float64) * torch.tensor([1, 1, 3, 3])
    found = as_pixels(coder.apply_deltas(deltas * torch.tensor([10, 10, 5, 5]), as_areas(box)))
    wanted = [decoded(*pair) for pair in zip(box.tolist(), deltas.tolist(), strict=True)]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64))


def test_levels_are_those_with_one_more_pixel():
    """112 pixels a side, from 0 to 111, are the least of the second level; one less belongs to the first."""
    last = [0.0, 110, 111, 222, 223, 446, 447, 2000]
    pixels = torch.tensor([[0, 0, end, end] for end in last])
    wanted = [min(max(math.floor(math.log2((end + 1) / 56 + 1e-6)), 0), 3) for end in last]
    assert wanted == [0, 0, 1, 1, 2, 2, 3, 3]
    assert LevelRule()(as_areas(pixels)).tolist() == wanted


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
    close(1 - giou_loss(boxes, others), generalized_box_iou(boxes, others).diagonal(), atol=1e-6)


def test_gradients_of_overlap():
    boxes, others = (t.requires_grad_() for t in random_boxes(2, 3, 4))
    for function in (paired_iou, giou_loss):
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
        found = 1 - giou_loss(boxes, boxes[0])
    assert found.dtype == torch.float32
    close(found, torch.tensor([[1.0], [0.5]]), atol=1e-6)


def test_overlap_of_no_boxes():
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


# Few different values, so that many boxes tie.
VALUES = torch.tensor([0.0, 0.2, 0.5, 0.6, 0.7, 1.0])


def random_iou(seed, num_gt, num_boxes):
    generator = torch.Generator().manual_seed(seed)
    return VALUES[torch.randint(0, len(VALUES), (num_gt, num_boxes), generator=generator)]


def matches_by_loops(iou, min_iou):
    """Objects in index order; each takes all boxes that attain its best IoU, also from others, if above 0."""
    matched = [-1] * iou.shape[1]
    for g, row in enumerate(iou.tolist()):
        if row and max(row) >= min_iou and max(row) > 0:
            for r, value in enumerate(row):
                if value == max(row):
                    matched[r] = g
    return matched


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    num_gt=st.integers(0, 6),
    num_boxes=st.integers(0, 8),
    min_iou=st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]),
)
def test_low_quality_matches_equal_loops(seed, num_gt, num_boxes, min_iou):
    iou = random_iou(seed, num_gt, num_boxes)
    # The value as float32 holds it, as in the comparison of tensors.
    found = low_quality_matches(iou, torch.tensor(min_iou).item())
    assert found.dtype == torch.int64
    assert found.tolist() == matches_by_loops(iou, torch.tensor(min_iou).item())


@pytest.mark.parametrize("shape, expected", [((0, 3), [-1, -1, -1]), ((2, 0), []), ((0, 0), [])])
def test_low_quality_matches_without_objects_or_boxes(shape, expected):
    assert low_quality_matches(torch.zeros(shape), 0.5).tolist() == expected


def test_low_quality_matches_of_parts_join():
    iou = random_iou(0, 7, 9)
    parts = [low_quality_matches(iou[start : start + 3], 0.5, first_index=start) for start in (0, 3, 6)]
    assert torch.equal(torch.stack(parts).max(dim=0).values, low_quality_matches(iou, 0.5))


def test_low_quality_threshold_is_met_by_equality():
    iou = torch.tensor([[0.5, 0.25]])
    assert low_quality_matches(iou, 0.5).tolist() == [0, -1]
    assert low_quality_matches(iou, 0.5001).tolist() == [-1, -1]
