"""Assigners: against the rules as loops, the recorded arrays, Detectron2, and numbers by hand."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, pairwise_iou
from hypothesis import given, settings
from hypothesis import strategies as st

from htd.layers import within_padding
from htd.modeling.dense.assigners import FCOS_RANGES, ATSSAssigner, FCOSAssigner, IoUAssigner, Predicted
from htd.modeling.dense.boxes import Priors
from htd.modeling.tood.task_alignment import TaskAlignedAssigner
from tests.modeling.dense.assigners import (
    at_priors,
    everywhere,
    matched_case,
    plain_alignment,
    plain_atss,
    priors_in,
    priors_of,
    random_objects,
    random_predictions,
    recorded_case,
    same,
)
from tests.recorded import close

# -- what must not change an assignment: chunks, orders, padding, precision; and images without objects


HEIGHT, WIDTH = 160, 224
KINDS = [ATSSAssigner, FCOSAssigner, IoUAssigner, TaskAlignedAssigner]
each_kind = pytest.mark.parametrize("kind", KINDS)
seeds = st.integers(0, 2**31)


def scene(seed, objects=12):
    """Return the arguments of a call for a random image."""
    priors = priors_in(HEIGHT, WIDTH)
    truth = random_objects(objects, HEIGHT, WIDTH, seed)
    return priors, everywhere(priors), *truth, random_predictions(priors, seed)


@each_kind
@settings(max_examples=10, deadline=None)
@given(seed=seeds, objects=st.sampled_from([0, 3, 12, 251]), pairs_at_once=st.sampled_from([1, 1500, 4000]))
def test_memory_limit_changes_nothing(kind, seed, objects, pairs_at_once):
    inputs = scene(seed, objects)
    same(kind(pairs_at_once=pairs_at_once)(*inputs), kind(pairs_at_once=2**30)(*inputs))


@each_kind
@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_order_of_the_objects(kind, seed):
    priors, valid, gt_boxes, gt_classes, predicted = scene(seed)
    order = torch.randperm(len(gt_boxes), generator=torch.Generator().manual_seed(seed))
    plain = kind()(priors, valid, gt_boxes, gt_classes, predicted)
    other = kind()(priors, valid, gt_boxes[order], gt_classes[order], predicted)
    positive = plain.gt_index >= 0
    restored = torch.where(positive, order[other.gt_index.clamp(min=0)], other.gt_index)
    if kind is IoUAssigner:
        # Of several objects that claim an anchor the last has it, so only whether it has one is the same.
        plain, restored = replace(plain, gt_index=positive), restored >= 0
    same(replace(other, gt_index=restored), plain)


@each_kind
@settings(max_examples=10, deadline=None)
@given(seed=seeds, order=st.permutations(range(5)))
def test_order_of_the_levels(kind, seed, order):
    priors, valid, gt_boxes, gt_classes, predicted = scene(seed)
    rows = torch.cat([priors.split(torch.arange(len(priors)))[level] for level in order])
    moved = Priors(
        priors.boxes[rows],
        tuple(priors.shapes[level] for level in order),
        tuple(priors.strides[level] for level in order),
    )
    ranges = {"ranges": [FCOS_RANGES[level] for level in order]} if kind is FCOSAssigner else {}
    found = kind(**ranges)(
        moved, valid, gt_boxes, gt_classes, Predicted(predicted.scores[rows], predicted.boxes[rows])
    )
    plain = kind()(priors, valid, gt_boxes, gt_classes, predicted)
    same(found, replace(plain, gt_index=plain.gt_index[rows], metric=plain.metric[rows]))


@each_kind
@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_an_image_in_a_larger_batch_is_assigned_as_alone(kind, seed):
    """Also where objects lie half in the padding, and the predictions there are the best of all."""
    alone, _, gt_boxes, gt_classes, predicted = scene(seed)
    batch = priors_in(2 * HEIGHT, 2 * WIDTH)
    valid = within_padding(batch.split(batch.boxes), batch.strides, (HEIGHT, WIDTH), 32)
    scores, boxes = torch.ones(len(batch), predicted.scores.shape[1]), gt_boxes[:1].repeat(len(batch), 1)
    scores[valid], boxes[valid] = predicted.scores, predicted.boxes
    found = kind()(batch, valid, gt_boxes, gt_classes, Predicted(scores, boxes))
    assert set(found.gt_index[~valid].tolist()) == {-2} and not found.metric[~valid].any()
    same(
        replace(found, gt_index=found.gt_index[valid], metric=found.metric[valid]),
        kind()(alone, everywhere(alone), gt_boxes, gt_classes, predicted),
    )


@each_kind
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_change_nothing(kind, dtype):
    priors, valid, gt_boxes, gt_classes, predicted = scene(0)
    half = gt_boxes.to(dtype), Predicted(predicted.scores.to(dtype), predicted.boxes.to(dtype))
    full = half[0].float(), Predicted(half[1].scores.float(), half[1].boxes.float())
    wanted = kind()(priors, valid, full[0], gt_classes, full[1])
    with torch.autocast("cpu", dtype=dtype):
        found = kind()(priors, valid, half[0], gt_classes, half[1])
    same(found, wanted)
    assert found.metric.dtype == torch.float32 and found.gt_index.dtype == torch.int64
    assert (found.gt_index >= 0).any()


@each_kind
def test_without_objects_all_is_background(kind):
    priors, valid, gt_boxes, gt_classes, predicted = scene(0, objects=0)
    valid[::3] = False
    found = kind()(priors, valid, gt_boxes, gt_classes, predicted)
    assert torch.equal(found.gt_index, torch.where(valid, -1, -2))
    assert torch.equal(found.metric, torch.zeros(len(priors)))


@each_kind
def test_without_valid_priors_all_are_unused(kind):
    priors, valid, *rest = scene(0)
    found = kind()(priors, torch.zeros_like(valid), *rest)
    assert set(found.gt_index.tolist()) == {-2} and not found.metric.any()


@each_kind
def test_hostile_objects(kind):
    """Boxes of no extent, beyond the image, larger than it, and all in one place."""
    priors, valid, _, _, predicted = scene(0)
    boxes = torch.tensor([[9.0, 9, 9, 9], [9000, 9000, 9100, 9100], [-500, -500, 900, 900]])
    boxes = torch.cat([boxes, torch.tensor([[40.0, 40, 41, 41]]).repeat(20, 1)])
    found = kind()(priors, valid, boxes, torch.zeros(len(boxes), dtype=torch.int64), predicted)
    assert torch.isfinite(found.metric).all()
    assert not set(found.gt_index.tolist()) & {0, 1}
    assert (found.metric >= 0).all() and (found.metric <= 1).all()


# -- ATSS and task alignment against the rules written as loops, and by hand


# From an image of several objects down to fewer priors than an object looks at, and one in all.
SHAPES = [
    ((12, 16), (6, 8), (3, 4), (2, 2), (1, 1)),
    ((3, 2), (2, 1), (1, 1)),
    ((2, 3), (1, 1)),
    ((1, 1),),
]
SCENES = {
    "seed": st.integers(0, 2**31),
    "shapes": st.sampled_from(SHAPES),
    "objects": st.integers(0, 12),
    "share": st.sampled_from([0.0, 0.5, 1.0]),
    "num_classes": st.sampled_from([1, 8]),
}


def drawn_scene(seed, shapes, objects, share, num_classes):
    """Return priors, of which a share is valid, and random objects and predictions."""
    priors = priors_of(shapes, (8, 16, 32, 64, 128)[: len(shapes)])
    valid = torch.rand(len(priors), generator=torch.Generator().manual_seed(seed)) < share
    size = (8 * shapes[0][0], 8 * shapes[0][1])
    truth = random_objects(objects, *size, seed, num_classes)
    return priors, valid, *truth, random_predictions(priors, seed, num_classes)


@settings(max_examples=80, deadline=None)
@given(**SCENES)
def test_atss_equals_loops(**drawn):
    priors, valid, gt_boxes, gt_classes, _ = drawn_scene(**drawn)
    found = ATSSAssigner()(priors, valid, gt_boxes, gt_classes, None)
    assert found.gt_index.tolist() == plain_atss(priors, valid, gt_boxes).tolist()
    assert torch.equal(found.metric, (found.gt_index >= 0).float())


@settings(max_examples=80, deadline=None)
@given(**SCENES)
def test_task_alignment_equals_loops(**drawn):
    inputs = drawn_scene(**drawn)
    found = TaskAlignedAssigner()(*inputs)
    index, metric = plain_alignment(*inputs)
    assert found.gt_index.tolist() == index.tolist()
    close(found.metric, metric, atol=1e-6)


@pytest.mark.parametrize("side", [7, 20, 33, 40, 52])
def test_anchors_that_overlap_alike_are_all_positive(side):
    """The object lies midway between four anchors of side 64: the IoU of all is the threshold."""
    priors = priors_of([(6, 6)], [8])
    middle = torch.tensor([20.0, 20, 20, 20])
    truth = (middle + torch.tensor([-1.0, -1, 1, 1]) * (side / 2 + 4))[None]
    for topk in (3, 4):
        inputs = priors, everywhere(priors), truth
        assigner = ATSSAssigner(topk=topk)
        found, candidates = assigner(*inputs, torch.zeros(1), None), assigner.candidates(*inputs)
        assert candidates.iou.unique().tolist() == candidates.threshold.tolist()
        assert (found.gt_index == 0).sum() == topk


@pytest.mark.parametrize("side", [4, 6, 7])
def test_anchors_that_are_not_valid_do_not_move_the_threshold(side):
    """Seven anchors overlap the object alike, to a number that rounds; one equals it, but is not valid."""
    truth = torch.tensor([[0.0, 0, side, 30]])
    alike = truth + torch.tensor([-20.0, 0, 20, 0])
    priors = Priors(torch.cat([alike.repeat(7, 1), truth]), ((1, 8),), (8,))
    valid = torch.arange(8) < 7
    candidates = ATSSAssigner().candidates(priors, valid, truth)
    assert candidates.valid.sum() == 7
    assert candidates.iou[candidates.valid].unique().tolist() == candidates.threshold.tolist()
    assert ATSSAssigner()(priors, valid, truth, torch.zeros(1), None).gt_index.tolist() == [0] * 7 + [-2]


def test_one_candidate_has_no_deviation_so_it_is_not_positive():
    priors = priors_of([(1, 1)], [8])
    truth = torch.tensor([[-32.0, -32, 32, 32]])
    assert ATSSAssigner()(priors, everywhere(priors), truth, torch.zeros(1), None).gt_index.tolist() == [-1]
    threshold = ATSSAssigner().candidates(priors, everywhere(priors), truth).threshold
    assert threshold.isnan().tolist() == [True]


def test_middles_of_anchors_lie_farther_inside_than_the_margin():
    """Three anchors around the object, with their middles at x of 0, 8 and 16, overlap it alike."""
    priors = priors_of([(1, 3)], [8])
    for left, wanted in [(7.98, [-1, 0, -1]), (7.995, [-1, -1, -1])]:
        truth = torch.tensor([[left, -30.0, 8.5, 30]])
        inputs = priors, everywhere(priors), truth, torch.tensor([0])
        assert ATSSAssigner()(*inputs, None).gt_index.tolist() == wanted
        predicted = Predicted(torch.ones(3, 1), truth.expand(3, -1))
        assert TaskAlignedAssigner()(*inputs, predicted).gt_index.tolist() == wanted


def test_alignment_by_hand():
    """Four priors in one object, of scores 0.9, 0.5, 0.9, 0.8 and IoU 0.5, 1, 0.25, 0.

    t is 0.9 / 64, 0.5, 0.9 / 4096 and 0. Of the three with t above 0 the greatest is the second's; scaled
    it is the greatest IoU, 1, and the others are t / 0.5.
    """
    priors = priors_of([(1, 4)], [8], side=1, offset=0.5)
    truth = torch.tensor([[0.0, 0, 32, 8]])
    boxes = torch.tensor([[0.0, 0, 16, 8], [0, 0, 32, 8], [0, 0, 8, 8], [40, 0, 48, 8]])
    predicted = Predicted(torch.tensor([[0.1, 0.9], [0.9, 0.5], [0.1, 0.9], [0.9, 0.8]]), boxes)
    inputs = priors, everywhere(priors), truth, torch.tensor([1]), predicted
    found = TaskAlignedAssigner()(*inputs)
    assert found.gt_index.tolist() == [0, 0, 0, -1]
    close(found.metric, torch.tensor([0.9 / 64 / 0.5, 1, 0.9 / 4096 / 0.5, 0]), atol=1e-6)
    two = TaskAlignedAssigner(topk=2)(*inputs)
    assert two.gt_index.tolist() == [0, 0, -1, -1]
    scores = TaskAlignedAssigner(alpha=1, beta=0.5, topk=1)(*inputs)
    assert scores.gt_index.tolist() == [0, -1, -1, -1]  # 0.9 * 0.5 ** 0.5 against 0.5 * 1


def test_a_prior_goes_to_the_object_that_its_box_overlaps_better_not_to_the_better_aligned():
    priors = priors_of([(1, 1)], [8], side=1, offset=0.5)
    truth = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 8]])
    predicted = Predicted(torch.tensor([[0.9, 0.1]]), torch.tensor([[0.0, 0, 10, 8.5]]))
    inputs = priors, everywhere(priors), truth, torch.tensor([0, 1, 1]), predicted
    candidates, found = TaskAlignedAssigner().candidates(*inputs), TaskAlignedAssigner()(*inputs)
    assert candidates.alignment[0] > candidates.alignment[1] == candidates.alignment[2]
    assert candidates.positive.all()
    assert found.gt_index.tolist() == [1]  # of the two equal objects the first


# -- ATSS against the recorded arrays: typical and crowded images, none, and ties


CASES = [
    *(("assigners", prefix) for prefix in ("typical.", "empty.", "crowded.")),
    *(("assigner_ties", prefix) for prefix in ("", "straddle.")),
]


def assigned(name, prefix):
    """Return a case, what ATSS makes of it, and its candidates."""
    case, priors = recorded_case(name, prefix)
    objects = everywhere(priors), case["gt_boxes"]
    assigner = ATSSAssigner()
    found = assigner(priors, *objects, case["gt_labels"].long(), None)
    return case, found, assigner.candidates(priors, *objects)


@pytest.mark.parametrize("name, prefix", CASES[:-1])
def test_objects_of_anchors(name, prefix):
    case, found, candidates = assigned(name, prefix)
    assert found.gt_index.tolist() == (case["atss_gt_inds"] - 1).tolist()
    assert torch.equal(found.metric, (case["atss_gt_inds"] > 0).float())
    close(at_priors(candidates.iou, candidates, found.gt_index), case["atss_iou"], atol=1e-5)


@pytest.mark.parametrize("name, prefix", CASES[:-1])
def test_targets(name, prefix):
    """Classes, 8 for background, and the objects' boxes at the positives, elsewhere the anchors'."""
    case, found = matched_case(ATSSAssigner(), name, prefix)
    positive, labels = case["atss_gt_inds"] > 0, case["atss_labels"].long()
    assert torch.equal(found.positive[0], positive) and found.counted.all()
    assert torch.equal(found.gt_classes[0], torch.where(positive, labels, 8))
    wanted = case["anchors"].clone()
    wanted[positive] = case["gt_boxes"][case["atss_gt_inds"][positive] - 1]
    assert torch.equal(found.gt_boxes[0], wanted)


@pytest.mark.parametrize("name, prefix", CASES)
def test_thresholds_and_candidates(name, prefix):
    case, _, candidates = assigned(name, prefix)
    close(candidates.threshold, case["atss_threshold"], atol=1e-5)
    if len(case["gt_boxes"]):
        assert set(candidates.valid.sum(dim=1).tolist()) == {int(case["atss_num_candidates"])}


def test_equally_distant_anchors_at_the_last_rank():
    """Which of them are candidates is open; how many are positive and how good they are is not."""
    case, found, candidates = assigned("assigner_ties", "straddle.")
    iou = at_priors(candidates.iou, candidates, found.gt_index)
    for number, count in enumerate(case["atss_num_pos"].tolist()):
        own, recorded = found.gt_index == number, case["atss_gt_inds"] == number + 1
        assert own.sum() == count == recorded.sum()
        close(iou[own].sort().values, case["atss_iou"][recorded].sort().values, atol=1e-5)


# -- points of pyramid levels


TWO_LEVELS = ((-1, 64), (64, 128))


def fcos(priors, *boxes, **settings):
    """Return the object of each point."""
    truth = torch.tensor(boxes, dtype=torch.float32)
    classes = torch.zeros(len(truth), dtype=torch.int64)
    return FCOSAssigner(**settings)(priors, everywhere(priors), truth, classes, None).gt_index.tolist()


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
    assert fcos(priors, (0, 0, right, 9), ranges=TWO_LEVELS) == wanted


def test_any_side_can_be_the_farthest():
    priors = priors_of([(1, 1)], (8,), side=1, offset=0.5)
    for far in [(-61, 0, 8, 8), (0, -61, 8, 8), (0, 0, 69, 8), (0, 0, 8, 69)]:
        assert fcos(priors, far, ranges=[(-1, 64)]) == [-1]
        assert fcos(priors, far, ranges=[(-1, 65)]) == [0]


def test_points_on_the_border_are_outside():
    priors = priors_of([(1, 3)], (8,), side=1, offset=0.5)  # x of 4, 12, 20
    assert fcos(priors, (4, 0, 20, 8), ranges=TWO_LEVELS[:1]) == [-1, 0, -1]
    assert fcos(priors, (3.5, 4, 20.5, 8), ranges=TWO_LEVELS[:1]) == [-1, -1, -1]
    assert fcos(priors, (3.5, 3.5, 20.5, 8), ranges=TWO_LEVELS[:1]) == [0, 0, 0]


def test_the_smallest_object_is_found_and_of_equal_ones_the_first():
    priors = priors_of([(1, 3)], (8,), side=1, offset=0.5)
    large, small, other = (0, 0, 24, 8), (8, 0, 16, 8), (8, 1, 16, 9)
    assert fcos(priors, large, small, ranges=TWO_LEVELS[:1]) == [0, 1, 0]
    for pairs_at_once in (1, 2**22):
        settings = {"ranges": TWO_LEVELS[:1], "pairs_at_once": pairs_at_once}
        assert fcos(priors, large, other, small, **settings) == [0, 1, 0]


def test_the_smallest_object_of_the_levels_size_not_of_all():
    """The small object is too small for the second level, whose point finds the large one."""
    priors = priors_of([(1, 1), (1, 1)], (8, 16), side=1, offset=0.5)
    assert fcos(priors, (0, 0, 10, 10), (0, 0, 80, 10), ranges=TWO_LEVELS) == [0, 1]


def test_points_near_the_middle():
    """The object's middle is at x = 36; points at 28, 36 and 44 lie within 1.5 strides, 12 pixels, of it."""
    priors = priors_of([(1, 9)], (8,), side=1, offset=0.5)
    box = (0, 0, 72, 8)
    ranges = [(-1, 128)]
    assert fcos(priors, box, ranges=ranges) == [0] * 9
    assert fcos(priors, box, ranges=ranges, center_radius=1.5) == [-1] * 3 + [0] * 3 + [-1] * 3
    # A point at exactly one stride is beyond a radius of one.
    assert fcos(priors, box, ranges=ranges, center_radius=1) == [-1] * 4 + [0] + [-1] * 4
    # The region does not reach beyond the object.
    assert fcos(priors, (32, 0, 40, 8), ranges=ranges, center_radius=1.5) == [-1] * 4 + [0] + [-1] * 4


def test_other_number_of_levels():
    priors = priors_of([(2, 2), (1, 1)], (8, 16))
    with pytest.raises(ValueError, match="5 ranges for 2 levels"):
        fcos(priors, (0, 0, 8, 8))


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
    found = FCOSAssigner(center_radius=1.5)(priors, everywhere(priors), truth, torch.zeros(12), None).gt_index
    assert found.tolist() == wanted.tolist()
    assert len(set(found.tolist())) > 5


# -- anchors by thresholds of IoU


def strip(*spans):
    """Return boxes of height 10 that span the given x."""
    return torch.tensor([[x1, 0.0, x2, 10.0] for x1, x2 in spans])


def by_iou(anchors, truth, valid=None, **settings):
    """Return the objects of anchors that make up one level."""
    priors = Priors(anchors, ((1, len(anchors)),), (8,))
    valid = everywhere(priors) if valid is None else torch.tensor(valid)
    classes = torch.zeros(len(truth), dtype=torch.int64)
    return IoUAssigner(**settings)(priors, valid, truth, classes, None).gt_index.tolist()


def test_iou_thresholds():
    """IoU with (0, 10): 1, 0.8, 0.5, 0.45, 0.4 and 0.3; from 0.4 on, below 0.5, anchors are unused."""
    anchors = strip((0, 10), (0, 8), (0, 5), (0, 4.5), (0, 4), (0, 3))
    assert by_iou(anchors, strip((0, 10))) == [0, 0, 0, -2, -2, -1]
    assert by_iou(anchors, strip((0, 10)), positive_iou=0.6, negative_iou=0.45) == [0, 0, -2, -2, -1, -1]


def test_an_object_gets_its_best_anchors_however_little_they_overlap():
    """The best IoU is 1 / 39, attained twice."""
    anchors = strip((0, 20), (38, 58), (100, 120))
    assert by_iou(anchors, strip((19, 39))) == [0, 0, -1]
    assert by_iou(anchors, strip((19, 39)), low_quality_iou=0.03) == [-1, -1, -1]


def test_an_object_takes_its_best_anchor_from_one_that_it_overlaps_better():
    """IoU of anchor 0: 1 with object 0, 0.4 with object 1, whose best it is. Detectron2 leaves it to 0."""
    anchors, truth = strip((0, 10), (20, 30)), strip((0, 10), (0, 4))
    assert by_iou(anchors, truth) == [1, -1]
    matched, _ = Matcher([0.4, 0.5], [0, -1, 1], allow_low_quality_matches=True)(
        pairwise_iou(Boxes(truth), Boxes(anchors))
    )
    assert matched[0] == 0


def test_of_equal_objects_the_first_is_found_but_the_last_has_the_best_anchor():
    anchors, truth = strip((0, 10), (0, 8)), strip((0, 10), (0, 10))
    assert by_iou(anchors, truth) == by_iou(anchors, truth, pairs_at_once=1) == [1, 0]


def test_only_valid_anchors_are_taken():
    anchors, truth = strip((0, 10), (0, 4), (20, 30)), strip((0, 10))
    assert by_iou(anchors, truth) == [0, -2, -1]
    assert by_iou(anchors, truth, valid=[False, True, True]) == [-2, 0, -1]


def test_an_object_that_overlaps_no_anchor_has_none():
    anchors = strip((0, 10), (20, 30))
    assert by_iou(anchors, strip((50, 60))) == [-1, -1]
    assert by_iou(anchors, strip((50, 60), (0, 10))) == [1, -1]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), objects=st.integers(0, 10))
def test_positives_are_those_of_detectron2(seed, objects):
    """So are their objects, unless an anchor is the best of some object."""
    priors = priors_of([(10, 12), (5, 6), (3, 3)], (8, 16, 32), side=4)
    truth, classes = random_objects(objects, 80, 96, seed)
    found = IoUAssigner()(priors, everywhere(priors), truth, classes, None).gt_index
    iou = pairwise_iou(Boxes(truth), Boxes(priors.boxes))
    matcher = Matcher([0.4, 0.5], [0, -1, 1], allow_low_quality_matches=True)
    matched, labels = matcher(iou[(iou > 0).any(dim=1)])
    assert torch.equal(found >= 0, labels == 1)
    assert torch.equal(found == -1, labels == 0)
    best = ((iou == iou.amax(dim=1, keepdim=True)) & (iou > 0)).any(dim=0)
    own = (found >= 0) & ~best
    if own.any():
        assert torch.equal(iou[found[own], own], iou.amax(dim=0)[own])
        overlapping = torch.nonzero((iou > 0).any(dim=1))[:, 0]
        assert torch.equal(found[own], overlapping[matched[own]])
