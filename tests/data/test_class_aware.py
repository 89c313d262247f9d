"""Class-aware sampling: the published order, its remedy for empty classes, ranks, resuming."""

import itertools
from collections import Counter

import numpy as np
import pytest
from detectron2.utils import comm

from htd.data import ClassAwareOrder, UniformDraw, build_train_loader
from htd.data.class_aware import FirstOfPermutation, epoch_order
from htd.errors import UserError
from tests.recorded import arrays


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


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("grouping", [True, False])
def test_a_loader_goes_on_where_it_stopped(workers, grouping):
    _, images, num_classes = reference()
    # Every third image is as wide as it is high.
    images = [record | {"width": 4 + record["number"] % 3} for record in images]

    def loader():
        return build_train_loader(
            images,
            Mapper(),
            total_batch_size=4,
            num_workers=workers,
            aspect_ratio_grouping=grouping,
            sample_order=ClassAwareOrder(num_classes),
            seed=5,
        )

    expected = list(itertools.islice(loader(), 60))
    resumed = loader()
    resumed.set_start(52)
    assert list(itertools.islice(resumed, 8)) == expected[52:]


def test_ranks_load_their_blocks(monkeypatch):
    case, images, num_classes = reference()
    monkeypatch.setattr(comm, "get_world_size", lambda: 4)
    for rank in range(4):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        loader = build_train_loader(
            images,
            Mapper(),
            total_batch_size=20,
            num_workers=0,
            aspect_ratio_grouping=False,
            sample_order=ClassAwareOrder(num_classes),
        )
        found = [item["number"] for batch in itertools.islice(loader, 5) for item in batch]
        assert found == case[f"sampler_w4_r{rank}_e0"].tolist()


def test_no_order_is_the_usual_one():
    _, images, _ = reference()
    loader = build_train_loader(images, Mapper(), total_batch_size=1, num_workers=0, sample_order=None)
    found = [item["number"] for batch in itertools.islice(loader, 97) for item in batch]
    assert sorted(found) == list(range(97)) != found


class FromArrays:
    """Tells the classes of its objects, and makes no dictionary but the one that an error names."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        assert index == 2
        return {"file_name": "2.jpg"}

    def classes(self):
        return np.array([0, 0, 0, 2]), np.array([1, 0, 1, 4], np.int32)


def test_classes_are_read_from_arrays():
    expected = ClassAwareOrder(5)(records([[1, 0, 1], [], [4]]), 0)(0, 1)
    found = ClassAwareOrder(5)(FromArrays(), 0)(0, 1)
    assert list(itertools.islice(found, 20)) == list(itertools.islice(expected, 20))
    with pytest.raises(UserError, match="image 2.jpg has an object of class 4, but class-aware .* is for 4"):
        ClassAwareOrder(4)(FromArrays(), 0)


def test_objects_of_no_or_of_unknown_classes():
    with pytest.raises(UserError, match="class-aware sampling needs objects"):
        ClassAwareOrder(3)(records([[], []]), 0)
    with pytest.raises(UserError, match="class 3, but .* is for 3 classes.* set the model's num_classes"):
        ClassAwareOrder(3)(records([[0], [3]]), 0)


class Mapper:
    """Return the number of the image."""

    def __call__(self, record):
        return {"number": record["number"]}
