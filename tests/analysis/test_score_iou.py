"""Matching of detections with objects, and the correlation of their scores and IoUs."""

import math

import numpy as np
import pytest

from htd.analysis import Boxes, correlate, match

# Two images of 200 x 100, classes 1 and 2, worked out by hand.
OBJECTS = [(1, 1, (0, 0, 100, 40)), (1, 1, (0, 50, 100, 90)), (2, 2, (0, 0, 100, 40))]
DETECTIONS = [
    (1, 1, (0, 0, 62, 40)),
    (1, 1, (0, 0, 92, 40)),
    (1, 1, (0, 50, 82, 90)),
    (1, 1, (120, 0, 180, 40)),
    (2, 2, (0, 0, 42, 40)),
    (2, 2, (0, 0, 100, 28.8)),
    (2, 1, (0, 0, 100, 40)),
]
SCORES = np.array([0.9, 0.6, 0.8, 0.85, 0.7, 0.5, 0.4])


def boxes(rows):
    images, classes, corners = zip(*rows, strict=True) if rows else ((), (), ())
    return Boxes(np.array(images), np.array(classes), np.array(corners, dtype=float).reshape(-1, 4))


def matched(detections, objects, crowd=()):
    flags = np.zeros(len(objects), dtype=bool)
    flags[list(crowd)] = True
    return match(boxes(detections), boxes(objects), flags)


def test_matches_by_hand():
    found = matched(DETECTIONS, OBJECTS)
    assert found.objects.tolist() == [0, 0, 1, -1, 2, 2, -1]
    np.testing.assert_allclose(found.ious, [0.62, 0.92, 0.82, 0, 0.42, 0.72, 0], rtol=0, atol=1e-15)
    assert not found.in_crowd.any()


def test_order_of_detections_does_not_matter():
    order = [3, 6, 0, 5, 2, 4, 1]
    found, shuffled = matched(DETECTIONS, OBJECTS), matched([DETECTIONS[i] for i in order], OBJECTS)
    for expected, given in zip(found, shuffled, strict=True):
        assert np.array_equal(expected[order], given)


def test_correlation_by_hand():
    ious = matched(DETECTIONS, OBJECTS).ious
    found = correlate(SCORES, ious)
    assert found.n == 5
    assert found.pearson == pytest.approx(-0.03 / math.sqrt(0.0148), abs=1e-12)
    assert (round(found.pearson, 6), round(found.spearman, 12)) == (-0.246598, -0.3)
    higher = correlate(SCORES, ious, least_iou=0.5)
    assert (higher.n, round(higher.pearson, 6), round(higher.spearman, 12)) == (4, -0.424264, -0.4)


def test_of_equal_ious_the_first_object_counts():
    objects = [(1, 1, (0, 0, 10, 10)), (1, 1, (10, 0, 20, 10))]
    found = matched([(1, 1, (5, 0, 15, 10))], objects)
    assert found.objects.tolist() == [0] and found.ious == pytest.approx(1 / 3, abs=1e-15)


def test_equal_values_share_a_rank():
    # Ranks 1.5, 1.5, 3 and 2, 1, 3: products of deviations 0, 0.5, 1, squares 1.5 and 2.
    found = correlate(np.array([0.2, 0.2, 0.9]), np.array([0.5, 0.4, 0.8]))
    assert found.spearman == pytest.approx(1.5 / math.sqrt(3), abs=1e-12)


def test_pearson_is_numpys():
    generator = np.random.default_rng(0)
    scores = generator.random(200)
    ious = 0.1 + 0.4 * scores + 0.5 * generator.random(200)
    found = correlate(scores, ious)
    assert found.pearson == pytest.approx(np.corrcoef(scores, ious)[0, 1], abs=1e-12)
    # Ranks do not change with a rising function.
    assert correlate(scores**3, ious).spearman == pytest.approx(found.spearman, abs=1e-12)


@pytest.mark.parametrize(
    ("scores", "ious", "n"),
    [([], [], 0), ([0.5], [0.5], 1), ([0.5, 0.5], [0.3, 0.6], 2), ([0.3, 0.6], [0.5, 0.5], 2)],
)
def test_undefined_correlation_is_not_a_number(scores, ious, n):
    found = correlate(np.array(scores), np.array(ious))
    assert math.isnan(found.pearson) and math.isnan(found.spearman) and found.n == n


CROWD = (1, 1, (100, 0, 200, 100))


@pytest.mark.parametrize(
    ("detection", "left_out"),
    [
        ((1, 1, (50, 0, 150, 100)), True),  # half in the crowd, IoU 0 with the object
        ((1, 1, (49, 0, 149, 100)), False),
        ((1, 2, (100, 0, 200, 100)), False),  # another class
        ((2, 1, (100, 0, 200, 100)), False),  # another image
        ((1, 1, (100, 50, 120, 80)), False),  # in the crowd, but its object's box
    ],
)
def test_detections_in_a_crowd(detection, left_out):
    objects = [CROWD, (1, 1, (100, 50, 120, 80))]
    found = matched([detection], objects, crowd=[0])
    assert found.in_crowd.tolist() == [left_out]
    assert found.objects[0] != 0


def test_a_half_of_iou_is_enough_in_a_crowd():
    objects = [CROWD, (1, 1, (100, 0, 120, 20))]
    found = matched([(1, 1, (100, 0, 120, 40)), (1, 1, (100, 0, 120, 41))], objects, crowd=[0])
    assert found.in_crowd.tolist() == [False, True] and found.ious[0] == 0.5


def test_nothing_to_match():
    assert [len(part) for part in matched([], OBJECTS)] == [0, 0, 0]
    found = matched(DETECTIONS, [])
    assert (found.objects == -1).all() and (found.ious == 0).all()


def test_boxes_without_area_overlap_nothing():
    found = matched([(1, 1, (5, 5, 5, 5))], [(1, 1, (5, 5, 5, 5))])
    assert found.ious.tolist() == [0] and found.objects.tolist() == [-1]
