"""The order of training samples: an infinite stream of (position, image index), cut into batches.

Everything follows from the seed and is integers, so any batch can be found again: where all images are of one
group by its number, else by replaying the stream.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import count, cycle, islice

import numpy as np

from htd.errors import UserError

Sample = tuple[int, int]
# The samples of one rank forever, from (rank, world_size, start): the first ``start`` of them are left out.
SampleStream = Callable[[int, int, int], Iterator[Sample]]
Draw = Callable[[np.random.RandomState, int], int]


def each_image_once(records: Sequence[dict], seed: int) -> SampleStream:
    """Return the usual order of a data set: each epoch holds every image once."""
    return partial(sample_stream, len(records), seed)


def sample_stream(size: int, seed: int, rank: int, world_size: int, start: int = 0) -> Iterator[Sample]:
    """Yield the samples of one rank forever: positions rank, rank + world_size, ...

    Position p stands for image ``permutation(p // size)[p % size]``; the permutation of an epoch follows from
    seed and epoch.
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
    """Collect samples into batches of images of one group (given by image), each as soon as it is full."""
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
    """Return :func:`grouped_batches` without the first ``step``; ``stream`` takes samples to leave out."""
    if len(set(groups)) <= 1:
        return grouped_batches(stream(step * batch_size), batch_size, groups)
    # Which samples wait for the rest of their batch is known only from the samples before.
    return islice(grouped_batches(stream(0), batch_size, groups), step, None)


def aspect_groups(records: Sequence[dict]) -> list[int]:
    """Return 1 for images wider than high, else 0, as in Detectron2."""
    return [int(record["width"] > record["height"]) for record in records]


class FirstOfPermutation:
    """The published draw of one of n: the first of a new permutation. Its cost grows with n."""

    def __call__(self, generator: np.random.RandomState, size: int) -> int:
        """Return a number in [0, size)."""
        return int(generator.permutation(size)[0])


class UniformDraw:
    """A draw of one of n at constant cost: as likely as the published one, but other numbers."""

    def __call__(self, generator: np.random.RandomState, size: int) -> int:
        """Return a number in [0, size)."""
        return int(generator.randint(size))


class ClassAwareOrder:
    """Order of training samples in which every class gets the same number of images.

    Published with TSD for OpenImages, whose most frequent class has ten thousand times the images of its
    rarest. An epoch has as many samples as there are images: in each round the classes come in a new random
    order and each gives one of its images.

    Args:
        num_classes: K.
        draw: chooses the image of a class.
    """

    def __init__(self, num_classes: int, draw: Draw | None = None):
        self.num_classes = num_classes
        self.draw = draw or FirstOfPermutation()

    def __call__(self, records: Sequence[dict], seed: int) -> SampleStream:
        """Return the order of a data set.

        Args:
            records: with ``annotations`` that have ``category_id``, or with a method ``classes`` that returns
                what :func:`object_classes` does without making them.
            seed: added to the number of the epoch; 0 gives the published order.
        """
        read_classes = getattr(records, "classes", None) or partial(object_classes, records)
        images, classes = read_classes()
        if not len(images):
            raise UserError("class-aware sampling needs objects, and no training image has any")
        wrong = np.flatnonzero((classes < 0) | (classes >= self.num_classes))
        if len(wrong):
            raise UserError(
                f"image {records[int(images[wrong[0]])]['file_name']} has an object of class "
                f"{classes[wrong[0]]}, but class-aware sampling is for {self.num_classes} classes, from 0: "
                "set the model's num_classes to that of the data"
            )
        pairs = np.sort(classes.astype(np.int64) * len(records) + images)
        # An image counts once for each of its classes, however many objects it has.
        pairs = pairs[np.diff(pairs, prepend=-1) > 0]
        ends = np.searchsorted(pairs, np.arange(1, self.num_classes) * len(records))
        images_of_classes = np.split(pairs % len(records), ends)
        return partial(class_aware_stream, images_of_classes, len(records), seed, self.draw)


def object_classes(records: Iterable[dict]) -> tuple[np.ndarray, np.ndarray]:
    """Return for each object the index of its image and its class, both (N,) int64."""
    pairs = [(k, item["category_id"]) for k, record in enumerate(records) for item in record["annotations"]]
    images, classes = np.array(pairs, np.int64).reshape(-1, 2).T
    return images, classes


def class_aware_stream(
    images: Sequence[np.ndarray],
    size: int,
    seed: int,
    draw: Draw,
    rank: int,
    world_size: int,
    start: int = 0,
) -> Iterator[Sample]:
    """Yield the samples of one rank forever: a block of each epoch's order.

    Position p of the run is place p % n of epoch p // n, n being the length of an epoch, the same for all
    ranks; so no two samples have the same position. Epochs before the start are not drawn. ``images`` are the
    indices of ``size`` images by class; for the rest see :class:`ClassAwareOrder` and :data:`SampleStream`.
    """
    share = -(-size // world_size)
    begun = start % share
    for epoch in count(start // share):
        order = epoch_order(images, share * world_size, seed + epoch + 1, draw)
        first, begun = rank * share + begun, 0
        for place, image in enumerate(islice(order, first, (rank + 1) * share), first):
            yield epoch * share * world_size + place, image


def epoch_order(images: Sequence[np.ndarray], length: int, seed: int, draw: Draw) -> Iterator[int]:
    """Yield the image indices of one epoch, each as soon as it is drawn.

    As many whole rounds as fit into the length are drawn; classes without images give nothing. The rest is
    filled up by repeating the order from its beginning, as often as it takes.
    """

    def drawn() -> Iterator[int]:
        # The published order is defined by NumPy's legacy generator. Each draw advances it, so all draws
        # before a place have to be made.
        generator = np.random.RandomState(seed % 2**32)
        for _ in range(max(1, length // len(images))):
            for number in generator.permutation(len(images)):
                if len(images[number]):
                    yield int(images[number][draw(generator, len(images[number]))])

    return islice(cycle(drawn()), length)
