"""Boxes that name their first and last pixels, kept as the areas they cover.

What is written "with + 1" for such boxes is computed here by its own formula, corner by corner, and compared
with what the plain functions make of the areas.
"""

import math

import pytest
import torch
from detectron2.structures import Boxes, pairwise_iou
from hypothesis import given, settings
from hypothesis import strategies as st

from htd.layers import (
    ClampedBox2BoxTransform,
    ContinuousBoxes,
    HardNMS,
    InclusiveBoxes,
    as_areas,
    as_pixels,
)
from htd.modeling.cascade import LevelRule

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


def test_iou_by_hand():
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


def test_suppression_by_hand():
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


def test_coding_by_hand():
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
