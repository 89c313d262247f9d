"""Mask targets against Detectron2's and by hand."""

import importlib

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks

from htd.modeling.cascade import mask_targets
from tests.boxes import random_boxes
from tests.configs.reduced import ellipses

MODULE = importlib.import_module(
    "htd.modeling.cascade.mask_targets"
)  # the name in the package is the function
SIZE = (50, 70)


def scene(num_gt, num_rois, seed=0):
    """Ground truth with masks of one image, and RoIs near its objects."""
    generator = torch.Generator().manual_seed(seed)
    boxes = random_boxes(generator, num_gt, *SIZE)
    target = Instances(SIZE, gt_boxes=Boxes(boxes), gt_masks=BitMasks(ellipses(boxes, SIZE)))
    index = torch.randint(0, max(num_gt, 1), (num_rois,), generator=generator)
    near = boxes[index] if num_gt else torch.zeros(0, 4)
    shift = 4 * torch.randn(len(near), 2, generator=generator)
    rois = Instances(SIZE, proposal_boxes=Boxes(near + shift.repeat(1, 2)), gt_index=index[: len(near)])
    return target, rois


def by_detectron2(target, rois, size):
    boxes = rois.proposal_boxes.clone()
    boxes.clip(SIZE)
    return target.gt_masks[rois.gt_index].crop_and_resize(boxes.tensor, size)


@pytest.mark.parametrize("at_once", [1, 3 * 50 * 70, 2**24])
def test_equal_to_detectron2s_bitmasks(monkeypatch, at_once):
    """Whether the bitmaps of one, of three or of all objects are held at a time."""
    monkeypatch.setattr(MODULE, "_PIXELS_AT_ONCE", at_once)
    first, second = scene(7, 20), scene(1, 3, seed=1)
    found = mask_targets([first[0], second[0]], [first[1], second[1]], 28)
    assert found.shape == (23, 28, 28) and found.dtype == torch.bool
    assert torch.equal(found, torch.cat([by_detectron2(*first, 28), by_detectron2(*second, 28)]))
    assert 0.1 < found.float().mean() < 0.9


def test_by_hand():
    """An object in the left half of a 4 x 4 image, cut out as a whole and by its right half."""
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[:, :, :2] = True
    target = Instances((4, 4), gt_masks=BitMasks(mask))
    boxes = Boxes(torch.tensor([[0.0, 0, 4, 4], [2.0, 0, 4, 4], [0.0, 0, 2, 2]]))
    rois = Instances((4, 4), proposal_boxes=boxes, gt_index=torch.zeros(3, dtype=torch.int64))
    found = mask_targets([target], [rois], 2)
    assert found[0].tolist() == [[True, False], [True, False]]
    assert not found[1].any() and found[2].all()


def test_boxes_are_clipped_to_the_image():
    """Beyond the image there is no object: a target of the part inside is not one of the whole box."""
    mask = torch.ones(1, 40, 40, dtype=torch.bool)
    target = Instances((40, 40), gt_masks=BitMasks(mask))
    boxes = Boxes(torch.tensor([[30.0, 30, 70, 70], [-30, -30, 10, 10]]))
    rois = Instances((40, 40), proposal_boxes=boxes, gt_index=torch.zeros(2, dtype=torch.int64))
    assert mask_targets([target], [rois], 28).all()


def test_polygons_are_accepted():
    """A polygon that follows the pixel grid gives what its bitmap gives."""
    mask = torch.zeros(2, *SIZE, dtype=torch.bool)
    mask[0, 10:30, 20:50] = True
    mask[1, 5:45, 5:15] = True
    polygons = [[np.array([20.0, 10, 50, 10, 50, 30, 20, 30])], [np.array([5.0, 5, 15, 5, 15, 45, 5, 45])]]
    boxes = Boxes(torch.tensor([[0.0, 0, 56, 56], [14, 0, 42, 28], [0, 0, 28, 56]]))
    boxes.clip(SIZE)
    rois = Instances(SIZE, proposal_boxes=boxes, gt_index=torch.tensor([0, 0, 1]))
    bitmaps, drawn = (
        mask_targets([Instances(SIZE, gt_masks=masks)], [rois], 28)
        for masks in (BitMasks(mask), PolygonMasks(polygons))
    )
    assert drawn.dtype == torch.bool and drawn.shape == bitmaps.shape
    assert (drawn != bitmaps).float().mean() < 0.06
    assert drawn.any(dim=2).any(dim=1).all()


NO_MASKS = [BitMasks(torch.zeros(0, *SIZE, dtype=torch.bool)), PolygonMasks([])]


@pytest.mark.parametrize("fields", [{}, *({"gt_masks": masks} for masks in NO_MASKS)])
def test_no_objects(fields):
    rois = Instances(
        SIZE, proposal_boxes=Boxes(torch.zeros(0, 4)), gt_index=torch.zeros(0, dtype=torch.int64)
    )
    found = mask_targets([Instances(SIZE, **fields)], [rois], 28)
    assert found.shape == (0, 28, 28) and found.dtype == torch.bool


def test_boxes_without_area_have_empty_targets():
    target, rois = scene(2, 2)
    rois.proposal_boxes.tensor[:, 2] = rois.proposal_boxes.tensor[:, 0]
    assert not mask_targets([target], [rois], 28).any()


def test_missing_masks_are_refused():
    target, rois = scene(2, 2)
    target.remove("gt_masks")
    with pytest.raises(ValueError, match="gt_masks"):
        mask_targets([target], [rois], 28)
