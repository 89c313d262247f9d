"""FCOS's assignment by hand, and against Detectron2's FCOS with the settings that it has."""

from types import SimpleNamespace

import pytest
import torch
from detectron2.structures import Boxes

from htd.modeling.dense.assigners import FCOSAssigner
from tests.modeling.dense.assigners import everywhere, priors_in, priors_of, random_objects

TWO_LEVELS = ((-1, 64), (64, 128))


def assign(priors, *boxes, **settings):
    """Return the object of each point."""
    truth = torch.tensor(boxes, dtype=torch.float32)
    classes = torch.zeros(len(truth), dtype=torch.int64)
    return FCOSAssigner(**settings)(priors, everywhere(priors), truth, classes).gt_index.tolist()


@pytest.mark.parametrize(
    "right, wanted",
    [
        (68.0, [0, -1]),  # 64 from the first point, 60 from the second
        (68.5, [-1, -1]),  # 64.5 and 60.5: between the ranges of the two points
        (72.0, [-1, 0]),  # 68 and 64
        (136.0, [-1, 0]),  # 132 and 128
        (136.5, [-1, -1]),
    ],
)
def test_both_ends_belong_to_a_range(right, wanted):
    """Points at (4, 4) of the first and (8, 8) of the second level."""
    priors = priors_of([(1, 1), (1, 1)], (8, 16), side=1, offset=0.5)
    assert assign(priors, (0, 0, right, 9), ranges=TWO_LEVELS) == wanted


def test_any_side_can_be_the_farthest():
    priors = priors_of([(1, 1)], (8,), side=1, offset=0.5)
    for far in [(-61, 0, 8, 8), (0, -61, 8, 8), (0, 0, 69, 8), (0, 0, 8, 69)]:
        assert assign(priors, far, ranges=[(-1, 64)]) == [-1]
        assert assign(priors, far, ranges=[(-1, 65)]) == [0]


def test_points_on_the_border_are_outside():
    priors = priors_of([(1, 3)], (8,), side=1, offset=0.5)  # x of 4, 12, 20
    assert assign(priors, (4, 0, 20, 8), ranges=TWO_LEVELS[:1]) == [-1, 0, -1]
    assert assign(priors, (3.5, 4, 20.5, 8), ranges=TWO_LEVELS[:1]) == [-1, -1, -1]
    assert assign(priors, (3.5, 3.5, 20.5, 8), ranges=TWO_LEVELS[:1]) == [0, 0, 0]


def test_the_smallest_object_is_found_and_of_equal_ones_the_first():
    priors = priors_of([(1, 3)], (8,), side=1, offset=0.5)
    large, small, other = (0, 0, 24, 8), (8, 0, 16, 8), (8, 1, 16, 9)
    assert assign(priors, large, small, ranges=TWO_LEVELS[:1]) == [0, 1, 0]
    for pairs_at_once in (1, 2**22):
        settings = {"ranges": TWO_LEVELS[:1], "pairs_at_once": pairs_at_once}
        assert assign(priors, large, other, small, **settings) == [0, 1, 0]


def test_the_smallest_object_of_the_levels_size_not_of_all():
    """The small object is too small for the second level, whose point finds the large one."""
    priors = priors_of([(1, 1), (1, 1)], (8, 16), side=1, offset=0.5)
    assert assign(priors, (0, 0, 10, 10), (0, 0, 80, 10), ranges=TWO_LEVELS) == [0, 1]


def test_points_near_the_middle():
    """The object's middle is at x = 36; points at 28, 36 and 44 lie within 1.5 strides, 12 pixels, of it."""
    priors = priors_of([(1, 9)], (8,), side=1, offset=0.5)
    box = (0, 0, 72, 8)
    ranges = [(-1, 128)]
    assert assign(priors, box, ranges=ranges) == [0] * 9
    assert assign(priors, box, ranges=ranges, center_radius=1.5) == [-1] * 3 + [0] * 3 + [-1] * 3
    # A point at exactly one stride is beyond a radius of one.
    assert assign(priors, box, ranges=ranges, center_radius=1) == [-1] * 4 + [0] + [-1] * 4
    # The region does not reach beyond the object.
    assert assign(priors, (32, 0, 40, 8), ranges=ranges, center_radius=1.5) == [-1] * 4 + [0] + [-1] * 4


def test_other_number_of_levels():
    priors = priors_of([(2, 2), (1, 1)], (8, 16))
    with pytest.raises(ValueError, match="5 ranges for 2 levels"):
        assign(priors, (0, 0, 8, 8))


@pytest.mark.parametrize("seed", range(4))
def test_equals_detectron2_with_its_radius(seed):
    """Its ranges are open, but no random object lies at their ends."""
    fcos = pytest.importorskip(
        "detectron2.modeling.meta_arch.fcos", reason="this Detectron2 has no FCOS, later ones have"
    )
    priors = priors_in(320, 384, side=1, offset=0.5)
    # Detectron2 ranks by 1e8 less the area, in float32, so areas that differ by a few pixels would tie.
    truth = random_objects(12, 320, 384, seed)[0]
    settings = SimpleNamespace(center_sampling_radius=1.5)
    anchors = [Boxes(level) for level in priors.split(priors.boxes)]
    quality, wanted = fcos.FCOS._match_anchors(settings, Boxes(truth), anchors).max(dim=0)
    wanted[quality < 1e-5] = -1
    found = FCOSAssigner(center_radius=1.5)(priors, everywhere(priors), truth, torch.zeros(12)).gt_index
    assert found.tolist() == wanted.tolist()
    assert len(set(found.tolist())) > 5
