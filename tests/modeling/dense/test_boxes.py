"""Decoders in numbers: distances in pixels and in cells, distributions, deltas; and Detectron2's own."""

from math import log

import pytest
import torch
from detectron2.modeling import box_regression

from htd.layers import ClampedBox2BoxTransform
from htd.modeling.dense import DeltaDecoder, DistanceDecoder, DistributionDecoder, Priors
from tests.recorded import close

# Two cells of stride 8 and one of stride 16; middles (4, 4), (12, 4) and (20, 30).
PRIORS = Priors(
    torch.tensor([[0.0, 0, 8, 8], [8, 0, 16, 8], [10, 26, 30, 34]]), ((1, 2), (1, 1)), strides=(8, 16)
)
# Left, top, right, bottom; in two images.
DISTANCES = torch.tensor(
    [[[1.0, 2, 3, 4], [0, 0, 0, 0], [0.5, 1, 1.5, 2]], [[2, 2, 2, 2], [1, 0, 3, 0], [-1, 1, 2, 1]]]
)


def decoded(decoder, regression):
    found = decoder(regression, PRIORS)
    assert found.shape == (len(regression), 3, 4)
    return found.tolist()


def test_distances_in_pixels():
    assert decoded(DistanceDecoder(in_cells=False), DISTANCES) == [
        [[3, 2, 7, 8], [12, 4, 12, 4], [19.5, 29, 21.5, 32]],
        [[2, 2, 6, 6], [11, 4, 15, 4], [21, 29, 22, 31]],
    ]


def test_distances_in_cells():
    assert decoded(DistanceDecoder(in_cells=True), DISTANCES) == [
        [[-4, -12, 28, 36], [12, 4, 12, 4], [12, 14, 44, 62]],
        [[-12, -12, 20, 20], [4, 4, 36, 4], [36, 14, 52, 46]],
    ]


def test_distributions_are_decoded_to_their_mean():
    """Three bins for 0, 1 and 2 cells; sides one after the other."""
    never = -1e4
    side = {
        0.0: [0.0, never, never],
        2.0: [never, never, 0.0],
        1.0: [0.0, 0.0, 0.0],
        1.5: [never, 7.0, 7.0],
        0.25: [log(3), 0.0, never],
    }
    means = [[0.0, 2.0, 1.0, 1.5], [0.25, 0.25, 0.0, 2.0], [1.0, 1.5, 0.25, 0.0]]
    regression = torch.tensor([[sum((side[mean] for mean in prior), []) for prior in means]])
    wanted = DistanceDecoder(in_cells=True)(torch.tensor([means]), PRIORS)
    assert wanted[0, 0].tolist() == [4, -12, 12, 16]
    close(DistributionDecoder()(regression, PRIORS), wanted, atol=1e-4)


@pytest.mark.parametrize("divisors", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_deltas(divisors):
    """Middles move by shares of the anchor's sides, whose logarithms change."""
    deltas = torch.tensor([[[0.0, 0, 0, 0], [0.5, -0.25, log(2), log(0.5)], [0.1, 0.5, 0, log(3)]]])
    coded = deltas * torch.tensor(divisors)
    decoder = DeltaDecoder(transform=box_regression.Box2BoxTransform(weights=divisors))
    wanted = [[0, 0, 8, 8], [8, 0, 24, 4], [12, 22, 32, 46]]
    close(decoder(coded, PRIORS)[0], torch.tensor(wanted, dtype=torch.float32), atol=1e-4)
    # Each image has its own deltas, all the same anchors.
    both = decoder(torch.cat([torch.zeros_like(coded), coded]), PRIORS)
    close(both[0], PRIORS.boxes, atol=1e-5)
    close(both[1], torch.tensor(wanted, dtype=torch.float32), atol=1e-4)


def test_limits_of_deltas_are_those_of_the_transform():
    limited = ClampedBox2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0), scale_clamp=log(4))
    deltas = torch.tensor([[[0.0, 0, 9, -9], [0, 0, 1, -1], [0, 0, -9, 9]]])
    x1, y1, x2, y2 = DeltaDecoder(transform=limited)(deltas, PRIORS)[0].unbind(dim=1)
    assert (x2 - x1).tolist() == pytest.approx([32, 8 * 2.718282, 5], rel=1e-5)
    assert (y2 - y1).tolist() == pytest.approx([2, 8 / 2.718282, 32], rel=1e-5)


def test_distances_are_those_of_detectron2():
    """Those in cells are there in sides of the anchors."""
    if not hasattr(box_regression, "Box2BoxTransformLinear"):
        pytest.skip("this version of Detectron2 has no Box2BoxTransformLinear")
    points = torch.tensor([[0.0, 0, 8, 8], [8, 0, 16, 8], [12, 22, 28, 38]])
    priors = Priors(points, PRIORS.shapes, PRIORS.strides)
    distances = 5 * torch.rand(1, 3, 4, generator=torch.Generator().manual_seed(0))
    for in_cells in (True, False):
        theirs = box_regression.Box2BoxTransformLinear(normalize_by_size=in_cells)
        wanted = theirs.apply_deltas(distances[0], points)
        close(DistanceDecoder(in_cells=in_cells)(distances, priors)[0], wanted, atol=1e-4)
