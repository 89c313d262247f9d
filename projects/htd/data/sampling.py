"""The order of training samples: an infinite stream of positions, cut into batches.

Position p = 0, 1, 2, ... stands for image ``permutation(p // n)[p % n]`` of n images, the permutation
following from the seed and the epoch. Everything here is integers, so any batch can be found again
by replaying the stream.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import count

import numpy as np

Sample = tuple[int, int]


def sample_stream(size: int, seed: int, rank: int, world_size: int) -> Iterator[Sample]:
    """Yield (position, image index) of one rank for ever: positions rank, rank + world_size, ...

    Args:
        size: number of images.
        seed: seed of the permutations.
        rank, world_size: which share of the positions to take.
    """
    current, order = -1, None
    for position in count(rank, world_size):
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


def aspect_groups(records: Sequence[dict]) -> list[int]:
    """Return 1 for images wider than high, else 0, as in Detectron2."""
    return [int(record["width"] > record["height"]) for record in records]
