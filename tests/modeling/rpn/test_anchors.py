"""Anchors with whole-numbered corners, and which of them take part."""

import pytest
import torch

from htd.layers import InclusiveBoxes
from htd.modeling.rpn import AnchorLabeler, RoundedAnchorGenerator
from tests.recorded import inclusive

STRIDES, RATIOS = [4, 8, 16, 32, 64], [0.5, 1.0, 2.0]
# First and last pixels of the anchors of the first cell; the height over the width is 0.5, 1, 2.
BASE = {
    4: [[-21, -9, 24, 12], [-14, -14, 17, 17], [-9, -21, 12, 24]],
    8: [[-41, -19, 48, 26], [-28, -28, 35, 35], [-19, -41, 26, 48]],
    16: [[-83, -37, 98, 52], [-56, -56, 71, 71], [-37, -83, 52, 98]],
    32: [[-165, -75, 196, 106], [-112, -112, 143, 143], [-75, -165, 106, 196]],
    64: [[-330, -149, 393, 212], [-224, -224, 287, 287], [-149, -330, 212, 393]],
}


@pytest.fixture(scope="module")
def generator():
    return RoundedAnchorGenerator(sizes=[[8 * s] for s in STRIDES], aspect_ratios=[RATIOS], strides=STRIDES)


def maps_of(height, width):
    """Return a map for each level of a padded batch."""
    return [torch.zeros(1, 1, -(-height // s), -(-width // s)) for s in STRIDES]


def test_base_anchors(generator):
    assert list(generator.strides) == STRIDES
    assert generator.num_anchors == [3] * 5
    for base, stride in zip(generator.cell_anchors, STRIDES, strict=True):
        assert inclusive(base).tolist() == BASE[stride]


def test_order_of_the_grid(generator):
    """Row by row, in a cell one ratio after the other."""
    for level, stride in zip(generator(maps_of(96, 160)), STRIDES, strict=True):
        rows, columns = -(-96 // stride), -(-160 // stride)
        found = inclusive(level.tensor).view(rows, columns, 3, 4)
        for i, j in {(0, 0), (0, columns - 1), (rows - 1, 0), (rows - 1, columns - 1)}:
            shift = torch.tensor([j, i, j, i]) * stride
            assert torch.equal(found[i, j], torch.tensor(BASE[stride]) + shift)


@pytest.mark.parametrize("border", [0, 16, -1])
def test_which_take_part(generator, border):
    """An image of 300 x 410 in a batch of 416 x 512; its own padding ends at 320 x 416."""
    height, width, own = 300, 410, (320, 416)
    levels = [level.tensor for level in generator(maps_of(416, 512))]
    labeler = AnchorLabeler(allowed_border=border, convention=InclusiveBoxes())
    found = labeler.inside(levels, STRIDES, (height, width)).split([len(level) for level in levels])
    for take_part, level, stride in zip(found, levels, STRIDES, strict=True):
        rows, columns = -(-416 // stride), -(-512 // stride)
        i, j = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        wanted = ((i < -(-own[0] // stride)) & (j < -(-own[1] // stride))).flatten().repeat_interleave(3)
        if border >= 0:
            x1, y1, x2, y2 = inclusive(level).unbind(dim=1)
            wanted &= (x1 >= -border) & (y1 >= -border) & (x2 < width + border) & (y2 < height + border)
        assert torch.equal(take_part, wanted)
    assert 0 < torch.cat(found).sum() < len(torch.cat(levels))


def test_last_pixel_of_the_image_is_inside():
    """An anchor over pixels 0 to 7 fills an image of 8; one more pixel is too many."""
    level = [torch.tensor([[0.0, 0, 8, 8], [0, 0, 9, 8], [0, 0, 8, 9], [-1, 0, 7, 7]])]
    labeler = AnchorLabeler(convention=InclusiveBoxes())
    assert labeler.inside(level, [16], (8, 8)).tolist() == [True, False, False, False]
    assert AnchorLabeler().inside(level, [16], (8, 8)).tolist() == [False] * 4
    truth = torch.tensor([[0.0, 0, 8, 8]])
    assert labeler(level, [16], truth, (8, 8))[0].tolist() == [1, -1, -1, -1]
