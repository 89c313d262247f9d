"""What must not change an assignment: chunks, orders, padding, precision; and images without objects."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from htd.layers import within_padding
from htd.modeling.dense.assigners import FCOS_RANGES, ATSSAssigner, FCOSAssigner, IoUAssigner, Predicted
from htd.modeling.dense.boxes import Priors
from htd.modeling.tood.task_alignment import TaskAlignedAssigner
from tests.modeling.dense.assigners import (
    everywhere,
    priors_in,
    random_objects,
    random_predictions,
    same,
)

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
@settings(max_examples=15, deadline=None)
@given(seed=seeds, objects=st.integers(0, 12), pairs_at_once=st.sampled_from([1, 1500, 4000]))
def test_memory_limit_changes_nothing(kind, seed, objects, pairs_at_once):
    inputs = scene(seed, objects)
    same(kind(pairs_at_once=pairs_at_once)(*inputs), kind(pairs_at_once=2**30)(*inputs))


@each_kind
@pytest.mark.parametrize("pairs_at_once", [1, 20_000])
def test_memory_limit_changes_nothing_for_many_objects(kind, pairs_at_once):
    """Object by object, and 26 at a time with fewer in the last part."""
    inputs = scene(0, objects=251)
    found = kind(pairs_at_once=pairs_at_once)(*inputs)
    same(found, kind(pairs_at_once=2**30)(*inputs))
    assert len(found.gt_index.unique()) > 50


@each_kind
@settings(max_examples=15, deadline=None)
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
@settings(max_examples=15, deadline=None)
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
