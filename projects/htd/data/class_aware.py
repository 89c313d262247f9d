"""Class-aware sampling: every class gives a training the same number of images.

Published with TSD for OpenImages, whose most frequent class has ten thousand times the images of its rarest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import count, cycle, islice

import numpy as np

from htd.data.sampling import Sample, SampleStream
from htd.errors import UserError

Draw = Callable[[np.random.RandomState, int], int]


class FirstOfPermutation:
    """The published draw of one of n: the first of a fresh permutation. Its cost grows with n."""

    def __call__(self, generator: np.random.RandomState, size: int) -> int:
        """Return a number in [0, size)."""
        return int(generator.permutation(size)[0])


class UniformDraw:
    """A draw of one of n at constant cost: as likely, but other numbers than the published draw gives."""

    def __call__(self, generator: np.random.RandomState, size: int) -> int:
        """Return a number in [0, size)."""
        return int(generator.randint(size))


class ClassAwareOrder:
    """Order of training samples in which each class has its turn, for ``build_train_loader``.

    An epoch has as many samples as there are images, but is not one of all images: in each round the
    classes come in a new random order and each gives one of its images, drawn anew.

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
            records: with ``annotations`` that have ``category_id``, or with a method ``classes`` that tells
                what :func:`object_classes` does without making them.
            seed: added to the number of the epoch; 0 gives the published order.

        Raises:
            UserError: no image has an object, or an object's class is not one of the K.
        """
        read = getattr(records, "classes", None) or partial(object_classes, records)
        images, classes = read()
        if not len(images):
            raise UserError("class-aware sampling needs objects, and no training image has any")
        wrong = np.flatnonzero((classes < 0) | (classes >= self.num_classes))
        if len(wrong):
            raise UserError(
                f"image {records[int(images[wrong[0]])]['file_name']} has an object of class "
                f"{classes[wrong[0]]}, but class-aware sampling is for {self.num_classes} "
                "classes, from 0: set the model's num_classes (model.roi_heads.num_classes, or "
                "model.num_classes) to the number of classes of the data"
            )
        pairs = np.sort(classes.astype(np.int64) * len(records) + images)
        # An image stands once below each of its classes, however many objects it has.
        pairs = pairs[np.diff(pairs, prepend=-1) > 0]
        ends = np.searchsorted(pairs, np.arange(1, self.num_classes) * len(records))
        arrays = np.split(pairs % len(records), ends)
        return partial(class_aware_stream, arrays, len(records), seed, self.draw)


def object_classes(records: Iterable[dict]) -> tuple[np.ndarray, np.ndarray]:
    """Return for each object the index of its image and its class, both (N,) int64."""
    found = [(k, item["category_id"]) for k, record in enumerate(records) for item in record["annotations"]]
    images, classes = np.array(found, np.int64).reshape(-1, 2).T
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
    """Yield (position, image index) of one rank for ever: a block of each epoch's order.

    Position p of the run belongs to place p % n of epoch p // n, n being the length of an epoch, the same
    for all ranks; so no two samples have the same position. Epochs that end before the start are not drawn.

    Args:
        images: for each class the indices of its images.
        size: number of images.
        seed, draw: see :class:`ClassAwareOrder`.
        rank, world_size: which block to take.
        start: samples of this rank to leave out.
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

    Rounds that fit into the length are drawn whole; classes without images give nothing. What is missing
    then is filled up by repeating the order from its beginning, as often as it takes.
    """
    return islice(cycle(_drawn(images, max(1, length // len(images)), seed, draw)), length)


def _drawn(images: Sequence[np.ndarray], rounds: int, seed: int, draw: Draw) -> Iterator[int]:
    # The order is defined by NumPy's older generator, whose numbers never change. Each draw moves it on,
    # so all before a place have to be made.
    generator = np.random.RandomState(seed % 2**32)
    for _ in range(rounds):
        for number in generator.permutation(len(images)):
            if len(images[number]):
                yield int(images[number][draw(generator, len(images[number]))])
