"""The order of samples: positions, ranks, batches of one group, and class-aware sampling."""

import itertools
from collections import Counter
from functools import partial

import numpy as np
import pytest

from htd.data import ClassAwareOrder, FirstOfPermutation, UniformDraw
from htd.data.sampling import aspect_groups, batches_from, epoch_order, grouped_batches, sample_stream
from htd.errors import UserError
from tests.recorded import arrays


def test_every_epoch_holds_every_image_once():
    indices = [index for _, index in itertools.islice(sample_stream(5, 0, 0, 1), 20)]
    epochs = [indices[k : k + 5] for k in range(0, 20, 5)]
    assert all(sorted(epoch) == list(range(5)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


@pytest.mark.parametrize("groups", [[0] * 5, [1] * 5, [0, 1, 1, 0, 1]])
@pytest.mark.parametrize("rank, world_size", [(0, 1), (2, 3)])
def test_batches_from_a_step_on_are_those_of_a_whole_run(rank, world_size, groups):
    stream = partial(sample_stream, 5, 7, rank, world_size)
    whole = list(itertools.islice(grouped_batches(stream(0), 3, groups), 20))
    for step in (0, 1, 9):
        assert list(itertools.islice(batches_from(step, stream, 3, groups), 11)) == whole[step : step + 11]


def test_of_one_group_no_earlier_sample_is_drawn():
    starts = []
    list(batches_from(7, lambda start: starts.append(start) or iter([]), 3, [1, 1]))
    assert starts == [21]


@pytest.mark.parametrize("size, world_size", [(5, 2), (5, 3), (2, 5), (1, 4)])
def test_ranks_share_the_positions_of_one_stream(size, world_size):
    whole = list(itertools.islice(sample_stream(size, 7, 0, 1), 6 * world_size))
    for rank in range(world_size):
        share = list(itertools.islice(sample_stream(size, 7, rank, world_size), 6))
        assert share == whole[rank::world_size]


def test_batches_hold_one_group_in_the_order_of_the_stream():
    stream = list(enumerate([0, 1, 2, 3, 4, 5, 6]))
    batches = list(grouped_batches(stream, 2, [0, 1, 1, 0, 0, 1, 1]))
    assert batches == [[(1, 1), (2, 2)], [(0, 0), (3, 3)], [(5, 5), (6, 6)]]
    assert aspect_groups([{"width": 2, "height": 1}, {"width": 1, "height": 1}]) == [1, 0]


def records(classes_of_images):
    """Return dictionaries of images that have objects of the given classes."""
    return [
        {
            "number": k,
            "file_name": f"{k}.jpg",
            "height": 5,
            "width": 4,
            "annotations": [{"category_id": number} for number in classes],
        }
        for k, classes in enumerate(classes_of_images)
    ]


def reference():
    """Return the reference arrays and the images that they are about; one class has none."""
    case = arrays("tsd", "openimages_eval")
    classes = [[] for _ in range(int(case["dataset_len"]))]
    for number, image in case["class_images"].tolist():
        classes[image].append(number - 1)
    return case, records(classes), int(case["num_classes"])


@pytest.mark.parametrize("world_size, rank", [(1, 0), (4, 0), (4, 1), (4, 2), (4, 3)])
@pytest.mark.parametrize("epoch", [0, 3])
def test_reference_arrays(world_size, rank, epoch):
    case, images, num_classes = reference()
    expected = case[f"sampler_w{world_size}_r{rank}_e{epoch}"]
    stream = ClassAwareOrder(num_classes)(images, 0)(rank, world_size)
    share = len(expected)
    found = list(itertools.islice(stream, epoch * share, (epoch + 1) * share))
    assert [index for _, index in found] == expected.tolist()
    first = epoch * share * world_size + rank * share
    assert [position for position, _ in found] == list(range(first, first + share))


def test_a_seed_moves_the_epochs():
    case, images, num_classes = reference()
    found = list(itertools.islice(ClassAwareOrder(num_classes)(images, 3)(0, 1), 97))
    assert [index for _, index in found] == case["sampler_w1_r0_e3"].tolist()


def test_classes_have_equal_shares():
    """Class 0 has 900 images, class 1 ten: each of the ten comes 45 times as often in the mean."""
    images = records([[0]] * 900 + [[1]] * 10)
    for order in (ClassAwareOrder(2), ClassAwareOrder(2, draw=UniformDraw())):
        drawn = [index for _, index in itertools.islice(order(images, 0)(0, 1), 9100)]
        assert sum(index < 900 for index in drawn) == 4550
        often = Counter(index for index in drawn if index >= 900)
        assert len(often) == 10 and all(380 < times < 530 for times in often.values())


def test_an_image_of_two_classes_belongs_to_both_once():
    images = records([[0, 1, 1], [1]])
    drawn = Counter(index for _, index in itertools.islice(ClassAwareOrder(2)(images, 0)(0, 1), 4000))
    # All of class 0's turns, and half of class 1's.
    assert drawn[0] / 4000 == pytest.approx(0.75, abs=0.02)


@pytest.mark.parametrize("length", [1, 5, 23, 100])
def test_many_empty_classes_are_filled_up_repeatedly(length):
    """Two of 23 classes have images, so that a round gives two of the places that it should."""
    images = [np.arange(3), *[np.zeros(0, int)] * 20, np.array([7]), np.zeros(0, int)]
    order = list(epoch_order(images, length, 1, FirstOfPermutation()))
    assert len(order) == length and set(order) <= {0, 1, 2, 7}
    drawn = 2 * max(1, length // 23)
    assert order[drawn:] == [order[k % drawn] for k in range(drawn, length)] or length <= drawn


class CountedDraw(UniformDraw):
    """Counts what it draws."""

    def __init__(self):
        self.times = 0

    def __call__(self, generator, size):
        self.times += 1
        return super().__call__(generator, size)


@pytest.mark.parametrize("rank", [0, 2])
def test_a_start_leaves_samples_out_and_draws_no_earlier_epoch(rank):
    """An epoch of 97 images has 99 places for three ranks, 33 each."""
    _, images, num_classes = reference()
    whole = list(itertools.islice(ClassAwareOrder(num_classes, UniformDraw())(images, 4)(rank, 3), 150))
    for start in (0, 1, 32, 33, 70, 99):
        draw = CountedDraw()
        stream = ClassAwareOrder(num_classes, draw)(images, 4)(rank, 3, start)
        assert next(stream) == whole[start]
        # What comes before it in its own epoch has to be drawn, and no more.
        assert draw.times <= rank * 33 + start % 33 + 1
        assert list(itertools.islice(stream, 50)) == whole[start + 1 : start + 51]


def test_objects_of_no_or_of_unknown_classes():
    with pytest.raises(UserError, match="needs objects"):
        ClassAwareOrder(3)(records([[], []]), 0)
    with pytest.raises(UserError, match="class 3, .* 3 classes"):
        ClassAwareOrder(3)(records([[0], [3]]), 0)
