"""The order of training samples: an infinite stream of positions, cut into batches.

In the usual order position p = 0, 1, 2, ... stands for image ``permutation(p // n)[p % n]`` of n images, the
permutation following from the seed and the epoch. Everything here is integers, so any batch can be found
again: where all images are of one group by its number, else by replaying the stream.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import count, islice

import numpy as np

Sample = tuple[int, int]
# The samples of one rank for ever, from (rank, world_size, start): the first so many of them are left out.
SampleStream = Callable[[int, int, int], Iterator[Sample]]


def each_image_once(records: Sequence[dict], seed: int) -> SampleStream:
    """Return the usual order of a data set: each epoch holds every image once."""
    return partial(sample_stream, len(records), seed)


def sample_stream(size: int, seed: int, rank: int, world_size: int, start: int = 0) -> Iterator[Sample]:
    """Yield (position, image index) of one rank for ever: positions rank, rank + world_size, ...

    Args:
        size: number of images.
        seed: seed of the permutations.
        rank, world_size: which share of the positions to take.
        start: samples of this rank to leave out.
    """
    current, order = -1, None
    for position in count(rank + start * world_size, world_size):
        epoch, place = divmod(position, size)
        if epoch != current:
            current, order = epoch, np.random.default_rng([seed, epoch]).permutation(size)
        yield position, int(order[place])


def grouped_batches(
    stream: Iterable[Sample], batch_size: int, groups: Sequence[int]
) -> Iterator[list[Sample]]:
    """Collect samples into batches of images of one group, each batch as soon as it is full.

    Args:
        stream: (position, image index) pairs.
        batch_size: samples a batch.
        groups: group of each image, for instance 1 for images wider than high.
    """
    waiting = defaultdict(list)
    for sample in stream:
        bucket = waiting[groups[sample[1]]]
        bucket.append(sample)
        if len(bucket) == batch_size:
            yield list(bucket)
            bucket.clear()


def batches_from(
    step: int, stream: Callable[[int], Iterator[Sample]], batch_size: int, groups: Sequence[int]
) -> Iterator[list[Sample]]:
    """Return the batches of :func:`grouped_batches` without the first ``step`` of them.

    Args:
        step: batches to leave out.
        stream: gives the samples without the first so many.
        batch_size, groups: see :func:`grouped_batches`.
    """
    if len(set(groups)) <= 1:
        return grouped_batches(stream(step * batch_size), batch_size, groups)
    # Which samples have been waiting for the rest of their batch, only the samples before tell.
    return islice(grouped_batches(stream(0), batch_size, groups), step, None)


def aspect_groups(records: Sequence[dict]) -> list[int]:
    """Return 1 for images wider than high, else 0, as in Detectron2."""
    return [int(record["width"] > record["height"]) for record in records]
