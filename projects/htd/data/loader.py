"""Loaders of training and test images."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
import torch
from detectron2.data import DatasetFromList
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

from htd.data.sampling import Sample, SampleStream, aspect_groups, batches_from, each_image_once
from htd.errors import UserError


def shared(dataset: Sequence[dict]) -> DatasetFromList:
    """Return a data set of which all workers share one copy.

    A list is serialized once. Other sequences, which make their dictionaries on demand, stay as they are.
    """
    return DatasetFromList(dataset, copy=False, serialize=isinstance(dataset, list))


@dataclass
class TrainLoader:
    """Batches of mapped training images, forever, in an order that follows from the seed alone.

    Sample p of the run is the same image with the same augmentation whatever the number of workers,
    and iteration does not touch the global random generators. So a run continues by calling
    ``set_start`` with the number of steps already made. Built by :func:`build_train_loader`.
    """

    dataset: Sequence[dict]
    mapper: Callable[[dict], dict]
    batch_size: int  # images per batch on this rank
    num_workers: int
    groups: Sequence[int]  # group of each image; a batch holds images of one group
    stream: SampleStream  # gives the samples of each rank in their order
    seed: int
    start: int = 0

    def __post_init__(self):
        self.dataset = shared(self.dataset)

    @property
    def iterations_an_epoch(self) -> int:
        """Steps, rounded up, that show as many images as there are, over all ranks."""
        return math.ceil(len(self.dataset) / (self.batch_size * comm.get_world_size()))

    def set_start(self, step: int) -> None:
        """Let the next iteration begin with batch ``step`` of the run (0 is the first)."""
        self.start = step

    def batches(self) -> Iterator[list[Sample]]:
        """Yield the (position, image index) pairs of this rank's batches, from the start on."""
        stream = partial(self.stream, comm.get_rank(), comm.get_world_size())
        return batches_from(self.start, stream, self.batch_size, self.groups)

    def __iter__(self) -> Iterator[list[dict]]:
        yield from _mapped(_Items(self.dataset, self.mapper, self.seed), self.num_workers, self.batches())


@dataclass
class EvaluationLoader:
    """Mapped test images, one per batch, each image on exactly one rank; see :func:`build_test_loader`."""

    dataset: Sequence[dict]
    mapper: Callable[[dict], dict]
    num_workers: int

    def __post_init__(self):
        self.dataset = shared(self.dataset)

    def _share(self) -> range:
        """Return the image indices of this rank; a share is empty where images are fewer than ranks."""
        rank, world_size, size = comm.get_rank(), comm.get_world_size(), len(self.dataset)
        return range(size * rank // world_size, size * (rank + 1) // world_size)

    def __len__(self) -> int:
        return len(self._share())

    def __iter__(self) -> Iterator[list[dict]]:
        samples = [[(index, index)] for index in self._share()]
        yield from _mapped(_Items(self.dataset, self.mapper, seed=0), self.num_workers, samples)


def build_train_loader(
    dataset: Sequence[dict],
    mapper: Callable[[dict], dict],
    *,
    total_batch_size: int,
    num_workers: int = 4,
    aspect_ratio_grouping: bool = True,
    sample_order: Callable[[Sequence[dict], int], SampleStream] | None = None,
    seed: int = 0,
) -> TrainLoader:
    """Build the training loader of this rank.

    Args:
        dataset: dictionaries in Detectron2's format, see :func:`shared`.
        mapper: maps a dictionary to a model input.
        total_batch_size: images per step over all ranks.
        num_workers: loader processes of each rank; 0 loads in the process itself.
        aspect_ratio_grouping: fill a batch with either wide or high images, which pad less.
        sample_order: makes the order of the samples from the dictionaries and the seed, such as
            :class:`htd.data.ClassAwareOrder`; by default each image comes once an epoch.
        seed: seed of order and augmentation, the same on all ranks.
    """
    world_size = comm.get_world_size()
    if total_batch_size < 1 or total_batch_size % world_size:
        raise UserError(
            f"dataloader.train.total_batch_size={total_batch_size} is not a multiple of the {world_size} "
            "processes"
        )
    return TrainLoader(
        dataset,
        mapper,
        batch_size=total_batch_size // world_size,
        num_workers=num_workers,
        groups=aspect_groups(dataset) if aspect_ratio_grouping else [0] * len(dataset),
        stream=(sample_order or each_image_once)(dataset, seed),
        seed=seed,
    )


def build_test_loader(
    dataset: Sequence[dict], mapper: Callable[[dict], dict], *, num_workers: int = 4
) -> EvaluationLoader:
    """Build the test loader of this rank; a rank may be left without images."""
    return EvaluationLoader(dataset, mapper, num_workers)


@contextmanager
def seeded(seed: int, position: int):
    """Seed the global CPU generators of Python, NumPy and torch for one sample, then restore them."""
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    words = np.random.SeedSequence([seed, position]).generate_state(4)
    random.seed(int(words[0]))
    np.random.seed(words[1:3])
    torch.default_generator.manual_seed(int(words[3]))
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.default_generator.set_state(states[2])


@dataclass
class _Items(Dataset):
    """Samples as mapped dictionaries; a user's mistake is returned, not raised.

    A worker's exception reaches the main process with the worker's trace as its text, so the error
    is carried over as a value and raised there as it was.
    """

    records: Sequence[dict]
    mapper: Callable[[dict], dict]
    seed: int

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, sample: Sample) -> dict | UserError:
        position, index = sample
        with seeded(self.seed, position):
            try:
                return self.mapper(self.records[index])
            except UserError as error:
                return error


def _mapped(items: _Items, num_workers: int, samples) -> Iterator[list[dict]]:
    # Its own generator: otherwise each new iterator would draw from torch's global one.
    loader = DataLoader(
        items,
        batch_sampler=samples,
        num_workers=num_workers,
        collate_fn=_as_list,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),
    )
    for batch in loader:
        for item in batch:
            if isinstance(item, UserError):
                raise item
        yield batch


def _as_list(batch: list) -> list:
    return batch


def _start_worker(worker_id: int) -> None:
    # One core per worker, as torch sets it for itself.
    cv2.setNumThreads(0)
