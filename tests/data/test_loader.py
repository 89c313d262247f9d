"""Seeding, sharing and resuming of samples in the loaders."""

import itertools
import pickle
import random
from collections import Counter

import numpy as np
import pytest
import torch
from detectron2.data.transforms import RandomFlip
from detectron2.utils import comm

from htd.data import (
    CachedReader,
    ClassAwareOrder,
    DetectionMapper,
    ResizeCV2,
    build_test_loader,
    build_train_loader,
)
from htd.data.loader import _Items, seeded
from htd.errors import UserError

RECORDS = [{"number": k, "height": 10, "width": 20 if k % 3 else 5} for k in range(11)]


class Mapper:
    """Return the record with one number of each global generator, as an augmentation would draw it."""

    def __call__(self, record):
        if record["number"] < 0:
            raise UserError("image -1 cannot be read")
        return record | {"drawn": (random.random(), np.random.rand(), torch.rand(1).item())}


def take(loader, count):
    return list(itertools.islice(loader, count))


def train_loader(records=RECORDS, total_batch_size=3, num_workers=0, **options):
    return build_train_loader(
        records, Mapper(), total_batch_size=total_batch_size, num_workers=num_workers, **options
    )


def evaluation_loader(records=RECORDS, **options):
    return build_test_loader(records, Mapper(), num_workers=0)


def as_rank(monkeypatch, rank, world_size):
    monkeypatch.setattr(comm, "get_rank", lambda: rank)
    monkeypatch.setattr(comm, "get_world_size", lambda: world_size)


@pytest.mark.parametrize("grouping", [True, False])
def test_any_number_of_workers_gives_the_same_samples(grouping):
    expected = take(train_loader(aspect_ratio_grouping=grouping), 9)
    for num_workers in (1, 2):
        assert take(train_loader(num_workers=num_workers, aspect_ratio_grouping=grouping), 9) == expected
    shapes = [{item["width"] for item in batch} for batch in expected]
    assert all(len(widths) == 1 for widths in shapes) == grouping
    assert take(train_loader(aspect_ratio_grouping=grouping, seed=1), 9) != expected


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_run_continues_where_it_stopped(num_workers):
    expected = take(train_loader(), 12)
    loader = train_loader(num_workers=num_workers)
    iterator = iter(loader)  # made early, as Detectron2's trainer does
    loader.set_start(8)
    assert [next(iterator) for _ in range(4)] == expected[8:]


class Made:
    """Makes its dictionaries when they are asked for."""

    def __len__(self):
        return len(RECORDS)

    def __getitem__(self, index):
        return dict(RECORDS[index])

    def __reduce__(self):
        raise AssertionError("is serialized")

    def __iter__(self):
        raise AssertionError("all dictionaries are made")


def test_only_lists_are_serialized():
    for build in (train_loader, evaluation_loader):
        assert take(build(Made(), aspect_ratio_grouping=False), 4) == take(
            build(aspect_ratio_grouping=False), 4
        )
        assert build().dataset[3] is not RECORDS[3]


def test_ranks_load_their_share(monkeypatch):
    expected = [
        item["drawn"] for batch in take(train_loader(aspect_ratio_grouping=False), 8) for item in batch
    ]
    found = []
    for rank in range(3):
        as_rank(monkeypatch, rank, 3)
        batches = take(train_loader(aspect_ratio_grouping=False), 8)
        assert [len(batch) for batch in batches] == [1] * 8
        found.append([item["drawn"] for batch in batches for item in batch])
    assert [drawn for step in zip(*found, strict=True) for drawn in step] == expected


def test_loading_leaves_the_global_generators_alone():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    take(train_loader(), 3)
    take(build_test_loader(RECORDS, Mapper(), num_workers=0), 3)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected


def test_seeding_depends_on_seed_and_position_alone():
    def draw(*key):
        with seeded(*key):
            return Mapper()({"number": 0})["drawn"]

    assert draw(0, 5) == draw(0, 5)
    assert len({draw(0, 5), draw(0, 6), draw(1, 5)}) == 3
    with pytest.raises(KeyError), seeded(0, 0):
        state = torch.default_generator.get_state()
        raise KeyError
    assert not torch.equal(state, torch.default_generator.get_state())


@pytest.mark.parametrize("batch, images", [(1, 5), (3, 1), (4, 2)])
def test_small_data_and_odd_batches(batch, images):
    batches = take(train_loader(RECORDS[:images], batch, aspect_ratio_grouping=False), 3)
    assert [len(items) for items in batches] == [batch] * 3


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_users_mistake_arrives_as_it_was(num_workers):
    bad = [{"number": -1, "height": 1, "width": 1}]
    for loader in (
        train_loader(bad, 1, num_workers),
        build_test_loader(bad, Mapper(), num_workers=num_workers),
    ):
        with pytest.raises(UserError) as error:
            take(loader, 1)
        assert str(error.value) == "image -1 cannot be read"


def test_workers_can_be_started_by_spawn():
    mapper = DetectionMapper(
        is_train=True,
        augmentations=[ResizeCV2([20, 30], 50, "range"), RandomFlip(prob=0.5)],
        reader=CachedReader(),
    )
    loader = build_train_loader(RECORDS, mapper, total_batch_size=2, num_workers=2)
    copy = pickle.loads(pickle.dumps(_Items(loader.dataset, loader.mapper, loader.seed)))
    assert copy.records[3] == RECORDS[3] and len(copy) == len(RECORDS)


def test_a_batch_that_cannot_be_shared(monkeypatch):
    as_rank(monkeypatch, 0, 2)
    with pytest.raises(UserError, match="total_batch_size=3 .* 2 processes"):
        train_loader()
    with pytest.raises(UserError, match="total_batch_size=0"):
        train_loader(total_batch_size=0)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_test_loader_yields_every_image_in_order(num_workers):
    loader = build_test_loader(RECORDS, Mapper(), num_workers=num_workers)
    batches = list(loader)
    assert [[item["number"] for item in batch] for batch in batches] == [[k] for k in range(11)]
    assert len(loader) == 11 and list(loader) == batches


@pytest.mark.parametrize("images, world_size", [(11, 2), (11, 4), (2, 3)])
def test_test_images_are_shared_out_once(monkeypatch, images, world_size):
    found, sizes = Counter(), []
    for rank in range(world_size):
        as_rank(monkeypatch, rank, world_size)
        loader = build_test_loader(RECORDS[:images], Mapper(), num_workers=0)
        numbers = [item["number"] for batch in loader for item in batch]
        assert len(loader) == len(numbers)
        found.update(numbers)
        sizes.append(len(numbers))
    assert found == Counter(range(images)) and max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("grouping", [True, False])
def test_class_aware_sampling_goes_on_where_it_stopped(grouping):
    records = [record | {"annotations": [{"category_id": k % 3}]} for k, record in enumerate(RECORDS)]
    options = {"aspect_ratio_grouping": grouping, "sample_order": ClassAwareOrder(3), "seed": 5}
    expected = take(train_loader(records, **options), 60)
    resumed = train_loader(records, **options)
    resumed.set_start(52)
    assert take(resumed, 8) == expected[52:]
