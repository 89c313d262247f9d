"""RoIAlign of the older detectors against a plain loop and by hand."""

import math

import numpy as np
import pytest
import torch

from htd.layers import FeatureTable
from htd.modeling.cascade import LegacyRoIAlignPooler, LevelRule, RoIContext, RoIs
from tests.recorded import close, extents

STRIDES, SIZES = [4, 8], [(14, 18), (7, 9)]
# First and last pixels in an image of 56 x 72: within, smaller than a cell, without width, at every border,
# beyond it by less and by more than a cell, outside altogether.
PIXELS = [
    [10.0, 12, 41, 33],
    [20.3, 20.6, 21.1, 21.2],
    [30, 10, 29, 40],
    [9, 17, 9, 17],
    [0, 0, 71, 55],
    [0, 0, 2.5, 3.5],
    [-3, -3, 6, 6],
    [-9, -7, 3, 8],
    [66, 50, 74, 58],
    [60, 45, 95, 80],
    [-60, -40, -20, -12],
    [90, 5, 120, 30],
]


def bilinear(cells, y, x):
    """Read a map (H, W); zero more than a cell outside, else the outermost cells go on."""
    height, width = cells.shape
    if y < -1 or y > height or x < -1 or x > width:
        return 0.0
    y, x = (min(max(v, 0.0), n - 1.0) for v, n in ((y, height), (x, width)))
    y0, x0 = math.floor(y), math.floor(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    upper = cells[y0, x0] * (1 - (x - x0)) + cells[y0, x1] * (x - x0)
    lower = cells[y1, x0] * (1 - (x - x0)) + cells[y1, x1] * (x - x0)
    return upper * (1 - (y - y0)) + lower * (y - y0)


def pooled_by_loop(cells, pixels, stride, bins, samples=2):
    """Pool a map (H, W) in a box by first and last pixels: bins x bins means of samples x samples values."""
    (x, y), (end_x, end_y) = (
        (pixels[0] / stride, pixels[1] / stride),
        ((pixels[2] + 1) / stride, (pixels[3] + 1) / stride),
    )
    height, width = max(end_y - y, 0) / bins, max(end_x - x, 0) / bins
    out, at = np.zeros((bins, bins)), [(i + 0.5) / samples for i in range(samples)]
    for row, column in np.ndindex(bins, bins):
        values = [
            bilinear(cells, y + (row + dy) * height, x + (column + dx) * width) for dy in at for dx in at
        ]
        out[row, column] = np.mean(values)
    return out


def pool(maps, pixels, image, level, **settings):
    context = RoIContext(FeatureTable(maps, STRIDES[: len(maps)]), [(56, 72)] * 2, LevelRule())
    boxes = extents(torch.tensor(pixels, dtype=maps[0].dtype).reshape(-1, 4))
    rois = RoIs(boxes, torch.tensor(image, dtype=torch.int64), torch.tensor(level, dtype=torch.int64))
    return LegacyRoIAlignPooler(**settings)(context, rois)


@pytest.mark.parametrize("output_size", [7, 3])
@pytest.mark.parametrize("level", [0, 1])
def test_equal_to_the_loop(level, output_size):
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 2, *size, generator=generator, dtype=torch.float64) for size in SIZES]
    image = [i % 2 for i in range(len(PIXELS))]
    found = pool(maps, PIXELS, image, [level] * len(PIXELS), output_size=output_size)
    for roi, of_image, pixels in zip(found, image, PIXELS, strict=True):
        for channel, cells in zip(roi, maps[level][of_image].numpy(), strict=True):
            wanted = pooled_by_loop(cells, pixels, STRIDES[level], output_size)
            close(channel, torch.from_numpy(wanted), 1e-9)
    assert found[4].any() and not found[-1].any()


def test_levels_are_read_together():
    """The shift of half a cell is that of each RoI's own level."""
    maps = [torch.randn(2, 2, *size, dtype=torch.float64) for size in SIZES]
    level = [i % 2 for i in range(len(PIXELS))]
    together = pool(maps, PIXELS, [0] * len(PIXELS), level)
    for k in (0, 1):
        alone = pool(maps, PIXELS, [0] * len(PIXELS), [k] * len(PIXELS))
        rows = [i for i, of in enumerate(level) if of == k]
        close(together[rows], alone[rows], 1e-12)


def test_by_hand():
    """Cell i holds i, so a bin holds the middle of its stretch of the axis, in cells.

    Pixels 8 to 15 at stride 4 are cells 2 to 4, two bins with the middles 2.5 and 3.5. A box of half a cell,
    pixels 8 and 9, keeps its size: the middles are 2.125 and 2.375, not half a cell apart.
    """
    maps = [torch.arange(18.0).expand(1, 1, 14, 18)]
    found = pool(maps, [[8.0, 8, 15, 15], [8, 8, 9, 9]], [0, 0], [0, 0], output_size=2)
    close(found[0, 0], torch.tensor([[2.5, 3.5], [2.5, 3.5]]), 1e-6)
    close(found[1, 0], torch.tensor([[2.125, 2.375], [2.125, 2.375]]), 1e-6)


def test_gradients_reach_the_maps_and_no_boxes_are_fine():
    maps = [torch.randn(1, 1, 6, 6, dtype=torch.float64, requires_grad=True)]
    pixels = [[2.0, 3, 13, 15], [8, 8, 9, 9], [-5, 2, 4, 9]]
    torch.autograd.gradcheck(lambda x: pool([x], pixels, [0] * 3, [0] * 3, output_size=2), maps)
    out = pool(maps, [], [], [])
    assert out.shape == (0, 1, 7, 7)
    assert not torch.autograd.grad(out.sum(), maps)[0].any()
