"""Mask targets and pasting of the older detectors, by hand and against a plain loop."""

import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks

from htd.modeling.cascade import LegacyMaskTargets, legacy_paste
from tests.recorded import extents

SIZE = (20, 30)
CUT = LegacyMaskTargets()


def rois_of(pixels, index=None, size=SIZE):
    """Return RoIs by first and last pixels; each belongs to the first object unless told."""
    boxes = extents(torch.tensor(pixels, dtype=torch.float32).reshape(-1, 4))
    index = torch.zeros(len(boxes), dtype=torch.int64) if index is None else torch.tensor(index)
    return Instances(size, proposal_boxes=Boxes(boxes), gt_index=index)


def boxes_of(pixels):
    return Boxes(extents(torch.tensor(pixels, dtype=torch.float32).reshape(-1, 4)))


@pytest.fixture
def left_half():
    """One object in the left half of 4 x 4 pixels."""
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[:, :, :2] = True
    return Instances((4, 4), gt_masks=BitMasks(mask))


def rows_of(found):
    """Return the rows of masks that are the same from top to bottom."""
    assert found.dtype == torch.bool and (found == found[:, :1]).all()
    return found[:, 0].int().tolist()


def test_targets_by_hand(left_half):
    """The whole, its right half, its left half; two pixels enlarged to four: values between are rounded."""
    boxes = [[0, 0, 3, 3], [2, 0, 3, 3], [0, 0, 1, 1], [1, 0, 2, 3]]
    assert rows_of(CUT([left_half], [rois_of(boxes, size=(4, 4))], 2)) == [[1, 0], [0, 0], [1, 1], [1, 0]]
    found = CUT([left_half], [rois_of(boxes[3:], size=(4, 4))], 4)
    assert rows_of(found) == [[1, 1, 0, 0]]


def test_targets_truncate_the_numbers_of_pixels(left_half):
    """From 1.9 to 3.9 are the pixels 1 to 3, whatever is nearer."""
    found = CUT([left_half], [rois_of([[1.9, 0.2, 3.9, 2.7]], size=(4, 4))], 3)
    assert rows_of(found) == [[1, 0, 0]]


def test_targets_at_the_border(left_half):
    """Cut at the border, not filled up beyond it; a box beyond it has the pixel next to it.

    A box narrower than a pixel may end, in whole pixels, before it begins: it has its first pixel.
    """
    boxes = [[-5, -5, 2, 2], [1, 1, 9, 9], [10, 1, 20, 2], [-8, 1, -6, 2], [2.2, 1, 1.8, 2]]
    found = CUT([left_half], [rois_of(boxes, size=(4, 4))], 3)
    assert rows_of(found) == [[1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 1], [0, 0, 0]]


def plain_target(mask, pixels, size):
    height, width = mask.shape
    x1, y1, x2, y2 = (int(v) for v in pixels)
    x1, x2 = min(max(x1, 0), width - 1), min(max(x2, 0), width - 1)
    y1, y2 = min(max(y1, 0), height - 1), min(max(y2, 0), height - 1)
    part = mask[y1 : y1 + max(y2 - y1 + 1, 1), x1 : x1 + max(x2 - x1 + 1, 1)]
    return cv2.resize(part.astype(np.uint8), (size, size), interpolation=cv2.INTER_LINEAR)


def test_targets_of_a_batch_follow_their_objects():
    generator = np.random.default_rng(0)
    masks = [generator.random((count, *SIZE)) < 0.5 for count in (3, 1)]
    pixels = [generator.uniform(-5, 25, (count, 4)) for count in (9, 4)]
    for boxes in pixels:
        boxes[:, 2:] = boxes[:, :2] + generator.uniform(-0.9, 15, (len(boxes), 2))
    index = [[2, 0, 1, 1, 2, 0, 0, 2, 1], [0] * 4]
    targets = [Instances(SIZE, gt_masks=BitMasks(torch.from_numpy(m))) for m in masks]
    found = CUT(targets, [rois_of(p.tolist(), i) for p, i in zip(pixels, index, strict=True)], 28)
    wanted = [
        plain_target(masks[k][i], box, 28)
        for k in (0, 1)
        for box, i in zip(pixels[k].astype(np.float32), index[k], strict=True)
    ]
    assert found.shape == (13, 28, 28) and found.dtype == torch.bool
    np.testing.assert_array_equal(found.numpy(), np.stack(wanted) == 1)
    assert 0.2 < found.float().mean() < 0.8


def test_polygons_are_drawn_as_bitmaps():
    polygons = [[np.array([20.0, 2, 29, 2, 25, 18])], [np.array([5.0, 5, 15, 5, 15, 15, 5, 15])]]
    rois = rois_of([[15, 0, 29, 19], [0, 0, 20, 19], [4, 4, 16, 16]], [0, 1, 1])
    drawn = BitMasks.from_polygon_masks(PolygonMasks(polygons), *SIZE)
    found, wanted = (
        CUT([Instances(SIZE, gt_masks=masks)], [rois], 28) for masks in (PolygonMasks(polygons), drawn)
    )
    assert torch.equal(found, wanted)
    assert found.any(dim=2).any(dim=1).all()


NO_MASKS = [BitMasks(torch.zeros(0, *SIZE, dtype=torch.bool)), PolygonMasks([])]


@pytest.mark.parametrize("fields", [{}, *({"gt_masks": masks} for masks in NO_MASKS)])
def test_no_rois(fields):
    found = CUT([Instances(SIZE, **fields)], [rois_of([])], 28)
    assert found.shape == (0, 28, 28) and found.dtype == torch.bool


def test_missing_masks_are_refused():
    with pytest.raises(ValueError, match="gt_masks"):
        CUT([Instances(SIZE)], [rois_of([[0, 0, 5, 5]])], 28)


def test_pasting_by_hand():
    """A full mask covers its pixels, first and last among them; numbers are truncated."""
    masks = torch.ones(3, 2, 2)
    found = legacy_paste(masks, boxes_of([[1, 1, 2, 3], [1.9, 0.9, 3.2, 1.9], [4, 0, 4, 0]]), (4, 5), 0.5)
    wanted = torch.zeros(3, 4, 5, dtype=torch.bool)
    wanted[0, 1:4, 1:3] = True
    wanted[1, 0:2, 1:4] = True
    wanted[2, 0, 4] = True
    assert found.dtype == torch.bool and torch.equal(found, wanted)


def test_pasting_compares_interpolated_values_with_the_threshold():
    """0.9, 0.4 over four pixels are 0.9, 0.775, 0.525, 0.4; the threshold itself does not count."""
    masks = torch.tensor([[[0.9, 0.4], [0.9, 0.4]]])
    for threshold, wanted in ((0.5, [1, 1, 1, 0]), (0.6, [1, 1, 0, 0]), (0.3, [1, 1, 1, 1])):
        found = legacy_paste(masks, boxes_of([[0, 0, 3, 1]]), (2, 4), threshold)
        assert found[0].int().tolist() == [wanted, wanted]
    assert not legacy_paste(torch.full((1, 2, 2), 0.5), boxes_of([[0, 0, 3, 1]]), (2, 4), 0.5).any()


def test_pasting_at_the_border():
    """What a box has beyond the image is cut off before the mask is stretched over the rest.

    The last box is narrower than a pixel, see :func:`test_targets_at_the_border`.
    """
    masks = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]).repeat(4, 1, 1)
    pixels = [[2, 0, 9, 1], [-4, 0, 1, 1], [7, 0, 9, 1], [2.2, 0, 1.8, 1]]
    found = legacy_paste(masks, boxes_of(pixels), (2, 4), 0.4)
    assert rows_of(found) == [[0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]


def test_pasting_equals_the_plain_loop():
    generator = np.random.default_rng(1)
    first = generator.uniform(0, [24, 16], (20, 2))
    pixels = np.minimum(np.hstack([first, first + generator.uniform(0, 15, (20, 2))]), [29, 19, 29, 19])
    masks = generator.random((20, 28, 28)).astype(np.float32)
    found = legacy_paste(torch.from_numpy(masks), boxes_of(pixels.tolist()), SIZE, 0.5)
    for bitmap, mask, box in zip(found.numpy(), masks, pixels.astype(np.float32), strict=True):
        x1, y1, x2, y2 = box.astype(np.int32)
        wanted = np.zeros(SIZE, bool)
        wanted[y1 : y2 + 1, x1 : x2 + 1] = cv2.resize(mask, (x2 - x1 + 1, y2 - y1 + 1)) > 0.5
        np.testing.assert_array_equal(bitmap, wanted)


def test_pasting_no_masks():
    found = legacy_paste(torch.zeros(0, 28, 28), boxes_of([]), SIZE, 0.5)
    assert found.shape == (0, *SIZE) and found.dtype == torch.bool
