"""Scores on OpenImages: the reference arrays, loops, a second package, and cases worked out by hand."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from htd.errors import UserError
from htd.evaluation.open_images_scores import (
    BoxTable,
    OfficialRule,
    OpenImagesTruth,
    PublishedRule,
    expand,
    score,
    score_classes,
)

from .open_images_loops import score_by_loops

# Class 0 above 1 and 2, class 2 above 3, class 4 alone.
ANCESTORS = np.array(
    [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 0, 1, 0, 0], [1, 0, 1, 1, 0], [0, 0, 0, 0, 1]], bool
)
SQUARE = (0.0, 0.0, 0.4, 0.4)


def table(rows, kind=float):
    """Return a table of rows (image, class, box, value)."""
    images, classes, boxes, values = zip(*rows, strict=True) if rows else ((), (), (), ())
    boxes = np.array(boxes, float).reshape(-1, 4)
    return BoxTable(np.array(images, int), np.array(classes, int), boxes, np.array(values, kind))


def rows(found):
    """Return the rows of a table."""
    columns = found.images.tolist(), found.classes.tolist(), map(tuple, found.boxes), found.values.tolist()
    return list(zip(*columns, strict=True))


def ap(objects, detections, num_classes=1, **options):
    return score_classes(table(objects, bool), table(detections), num_classes, **options).ap


def random_rows(seed, images, count, jitter):
    """Return objects, a tenth of them groups, and detections near them or anywhere, with distinct scores."""
    generator = np.random.default_rng(seed)

    def box():
        x, y, w, h = generator.random(4) * [0.6, 0.6, 0.4, 0.4] + [0, 0, 0.02, 0.02]
        return x, y, x + w, y + h

    objects = [
        (int(generator.integers(images)), int(generator.integers(5)), box(), bool(generator.random() < 0.2))
        for _ in range(count)
    ]
    found = []
    for value in generator.permutation(4 * count):
        if objects and generator.random() < 0.7:
            image, number, near, _ = objects[generator.integers(count)]
            near = tuple(np.array(near) + jitter * generator.standard_normal(4))
            place = (image, number, (*near[:2], max(near[0], near[2]) + 0.01, max(near[1], near[3]) + 0.01))
        else:
            place = (int(generator.integers(images)), int(generator.integers(5)), box())
        found.append((*place, float(value) / (4 * count)))
    return objects, found


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    images=st.integers(1, 4),
    count=st.integers(0, 20),
    jitter=st.sampled_from([0.0, 0.02, 0.1]),
    weight=st.sampled_from([1.0, 0.5, 0.0]),
    rule=st.sampled_from([PublishedRule, OfficialRule]),
)
def test_equal_to_loops(seed, images, count, jitter, weight, rule):
    objects, found = random_rows(seed, images, count, jitter)
    generator = np.random.default_rng(seed)
    verified = [
        np.stack([generator.integers(images, size=3), generator.integers(5, size=3)], 1) for _ in "+-"
    ]
    truth = OpenImagesTruth([str(k) for k in range(images)], table(objects, bool), *verified, ANCESTORS)
    part = rule()
    part.group_weight = weight
    expanded = rows(expand(truth.objects, ANCESTORS))
    judged = {(image, number) for image, number, *_ in expanded}
    if rule is PublishedRule:
        judged |= {(image, 0) for image in range(images)}
    else:
        judged |= {(i, k) for i, c in verified[0].tolist() for k in range(5) if ANCESTORS[c, k]}
        judged |= {(i, k) for i, c in verified[1].tolist() for k in range(5) if ANCESTORS[k, c]}
    detections = rows(expand(table(found), ANCESTORS))
    expected = score_by_loops(expanded, detections, lambda i, c: (i, c) in judged, weight)
    result = score(truth, table(found), part)
    np.testing.assert_allclose(result.ap[: len(expected)], expected, atol=1e-12)
    assert np.isnan(result.ap[len(expected) :]).all()
    assert result.objects.tolist() == [sum(c == k for _, c, *_ in expanded) for k in range(5)]


def test_each_rule_by_hand():
    """One image with class 1, verified without class 2; detections of 0 to 4, one each.

    The object is right as class 1 and, expanded, as class 0. The detection of class 3 is also one of
    classes 2 and 0. Published: classes 0 and 1 are judged. For class 0 the scores .9 (of class 3) false,
    .8 (of class 1) true, .7 (of class 2) false and .6 false: precision 1/2 at recall 1. Officially class 2
    is absent, hence class 3 too, and there are no objects of either, so nothing changes but for a second
    image whose class 1 was verified as present without a box: there a detection is false.
    """
    far = (0.5, 0.5, 0.9, 0.9)
    found = [(0, 3, far, 0.9), (0, 1, SQUARE, 0.8), (0, 2, far, 0.7), (0, 0, far, 0.6), (0, 4, far, 0.95)]
    objects = table([(0, 1, SQUARE, False)], bool)
    none = np.zeros((0, 2), int)
    truth = OpenImagesTruth(["x", "y"], objects, none, np.array([[0, 2]]), ANCESTORS)
    np.testing.assert_array_equal(score(truth, table(found), PublishedRule()).ap, [0.5, 1, *[np.nan] * 3])
    np.testing.assert_array_equal(score(truth, table(found), OfficialRule()).ap, [0.5, 1, *[np.nan] * 3])

    second = [*found, (1, 1, SQUARE, 0.99)]
    labeled = OpenImagesTruth(["x", "y"], objects, np.array([[1, 1]]), none, ANCESTORS)
    # Unlabeled, class 1 is not judged in the second image; class 0 always is, by the published rule.
    np.testing.assert_allclose(score(truth, table(second), PublishedRule()).ap[:2], [1 / 3, 1])
    np.testing.assert_allclose(score(truth, table(second), OfficialRule()).ap[:2], [1 / 2, 1])
    np.testing.assert_allclose(score(labeled, table(second), OfficialRule()).ap[:2], [1 / 3, 1 / 2])


def test_an_absent_class_makes_what_is_below_it_false():
    """Class 3 has an object in image 0; a detection of it in image 1, where class 2 above it is absent."""
    truth = OpenImagesTruth(
        ["x", "y"], table([(0, 3, SQUARE, False)], bool), np.zeros((0, 2), int), np.array([[1, 2]]), ANCESTORS
    )
    found = table([(1, 3, SQUARE, 0.9), (0, 3, SQUARE, 0.8)])
    assert score(truth, found, OfficialRule()).ap[[2, 3]].tolist() == [0.5, 0.5]
    assert score(truth, found, PublishedRule()).ap[[2, 3]].tolist() == [1.0, 1.0]


def test_an_image_that_the_data_lack_has_no_objects():
    truth = OpenImagesTruth(
        ["x"], table([(0, 0, SQUARE, False)], bool), *[np.zeros((0, 2), int)] * 2, ANCESTORS
    )
    found = table([(1, 0, SQUARE, 0.9), (1, 4, SQUARE, 0.9), (0, 0, SQUARE, 0.5)])
    assert score(truth, found, PublishedRule()).ap[0] == 0.5
    assert score(truth, found, OfficialRule()).ap[0] == 1.0


def test_the_object_of_the_highest_overlap_is_the_only_one_tried():
    """The second detection overlaps the taken object by 0.82 and a free one by 0.74: it is false."""
    objects = [(0, 0, (0, 0, 100, 100), False), (0, 0, (0, 0, 100, 60), False)]
    found = [(0, 0, (0, 0, 100, 100), 0.9), (0, 0, (0, 0, 100, 82), 0.8)]
    np.testing.assert_allclose(ap(objects, found), [0.5])


def test_groups():
    """A group and a single object; detections inside of the group.

    Two lie in the group (one by just half its area): one true with the better score, .9. One has the
    single object at .8, a second one of it at .7 is false: precisions 1 at recalls 1/2 and 1. A detection
    of .85 with less than half of its area in the group is false and comes between: 1/2 + 1/2 * 2/3.
    """
    objects = [(0, 0, (0, 0, 10, 10), True), (0, 0, (20, 0, 30, 10), False)]
    found = [(0, 0, (1, 1, 2, 2), 0.6), (0, 0, (9, 0, 11, 10), 0.9)]
    found += [(0, 0, (20, 0, 30, 9), 0.8), (0, 0, (20, 0, 30, 8), 0.7)]
    assert ap(objects, found) == [1.0]
    np.testing.assert_allclose(ap(objects, [*found, (0, 0, (9, 0, 11.1, 10), 0.85)]), [1 / 2 + 1 / 2 * 2 / 3])
    # Of weight 0 the group stays an object that nothing finds.
    assert ap(objects, found, group_weight=0.0) == [0.5]
    # Nor does a group count as a single object: what overlaps it well is removed, too.
    assert ap(objects[:1], [(0, 0, (0, 0, 10, 9), 0.5), (0, 0, (0, 0, 10, 9), 0.4)]) == [1.0]


def test_a_true_detection_does_not_also_meet_a_group():
    objects = [(0, 0, (0, 0, 10, 10), True), (0, 0, (0, 0, 2, 2), False)]
    assert ap(objects, [(0, 0, (0, 0, 2, 2), 0.5)]) == [0.5]


def test_classes_without_objects_or_detections():
    found = score_classes(table([(0, 1, SQUARE, False)], bool), table([(0, 0, SQUARE, 0.5)]), 3)
    np.testing.assert_array_equal(found.ap, [np.nan, 0, np.nan])
    np.testing.assert_array_equal(found.recall, [np.nan, 0, np.nan])
    nothing = score_classes(table([], bool), table([]), 2)
    assert np.isnan(nothing.ap).all() and nothing.objects.tolist() == [0, 0]


def test_boxes_without_area_meet_nothing():
    assert ap([(0, 0, (1, 1, 1, 1), False)], [(0, 0, (1, 1, 1, 1), 0.5)]) == [0.0]
    assert ap([(0, 0, (0, 0, 2, 2), True)], [(0, 0, (1, 1, 1, 1), 0.5)]) == [0.0]


def test_few_pairs_at_a_time_change_nothing(monkeypatch):
    objects, found = random_rows(3, 3, 20, 0.02)
    expected = score_classes(table(objects, bool), table(found), 5).ap
    monkeypatch.setattr("htd.evaluation.open_images_scores._PAIRS", 3)
    np.testing.assert_array_equal(score_classes(table(objects, bool), table(found), 5).ap, expected)


@pytest.mark.parametrize("seed", range(8))
def test_a_second_opinion(seed):
    """hotcoco's OpenImages mode, where both rules agree: objects of a class that do not overlap."""
    hotcoco = pytest.importorskip("hotcoco")
    generator = np.random.default_rng(seed)
    objects, found = [], []
    for image in range(6):
        for cell in generator.permutation(16)[:9]:
            x, y = 25.0 * (cell % 4), 25.0 * (cell // 4)
            box = np.array([x, y, x + 20, y + 20])
            number, group = int(generator.integers(3)), bool(generator.random() < 0.2)
            objects.append((image, number, tuple(box), group))
            for _ in range(generator.integers(4)):
                moved = box + generator.normal(0, 2.5, 4)
                found.append((image, number, tuple(moved), float(generator.random())))
    truth = {
        "images": [{"id": k, "width": 100, "height": 100} for k in range(6)],
        "categories": [{"id": k + 1, "name": str(k)} for k in range(3)],
        "annotations": [
            _coco(image, number, box) | {"id": k, "area": 400.0, "iscrowd": 0, "is_group_of": int(group)}
            for k, (image, number, box, group) in enumerate(objects, start=1)
        ],
    }
    places = {row[:2] for row in objects}
    content = hotcoco.COCO(truth)
    results = [_coco(*row[:3]) | {"score": row[3]} for row in found if row[:2] in places]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluation = hotcoco.COCOeval(content, content.loadRes(results), "bbox", oid_style=True)
        evaluation.run()
        expected = evaluation.get_results(per_class=True)
    np.testing.assert_allclose(
        ap(objects, [row for row in found if row[:2] in places], 3),
        [expected[f"AP/{k}"] for k in range(3)],
        atol=1e-9,
    )


def _coco(image, number, box):
    x1, y1, x2, y2 = box
    return {"image_id": image, "category_id": number + 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}


rules = pytest.mark.parametrize("rule", [PublishedRule, OfficialRule])


def ap_of(rule, box, group):
    """Return the AP of a detection in an image with one object, or group of objects, (0, 0, 10, 10)."""
    one = np.zeros(1, np.int64), np.zeros(1, np.int64)
    objects = BoxTable(*one, np.array([[0.0, 0, 10, 10]]), np.array([group]))
    truth = OpenImagesTruth(["x"], objects, *[np.zeros((0, 2), int)] * 2, np.eye(1, dtype=bool))
    return score(truth, BoxTable(*one, np.array([box], float), np.ones(1)), rule).ap[0]


@rules
def test_iou_from_which_an_object_is_found(rule):
    """The detection has IoU 0.7 with the object."""
    found = [ap_of(rule(iou_threshold=value), (0, 0, 10, 7), False) for value in (0.5, 0.7, 0.71, 1.0)]
    assert found == [1, 1, 0, 0]
    assert ap_of(rule(group_share=1.0), (0, 0, 10, 7), False) == 1 == ap_of(rule(), (0, 0, 10, 5), False)
    assert ap_of(rule(), (0, 0, 10, 4.9), False) == 0


@rules
def test_share_from_which_a_detection_lies_in_a_group(rule):
    """A quarter of the detection does, and another one lies in it wholly."""
    found = [ap_of(rule(group_share=value), (0, 0, 20, 20), True) for value in (0.2, 0.25, 0.26, 1.0)]
    assert found == [1, 1, 0, 0] and ap_of(rule(group_share=1.0), (0, 0, 5, 5), True) == 1
    assert ap_of(rule(iou_threshold=1.0), (0, 0, 10, 20), True) == 1 == ap_of(rule(), (0, 0, 10, 20), True)
    assert ap_of(rule(), (0, 0, 10, 21), True) == 0


@rules
@pytest.mark.parametrize("value", [0.0, 50.0, float("nan"), "abc"])
def test_limits_that_cannot_be(rule, value):
    for name in ("iou_threshold", "group_share"):
        with pytest.raises(UserError, match=f"{name} is {value}"):
            rule(**{name: value})
    with pytest.raises(UserError, match="group_weight is -1"):
        PublishedRule(group_weight=-1)
