"""Learning-rate schedules: multipliers of ``optimizer.lr`` over ``train.max_iter``."""

import math

from detectron2.config import LazyCall as L

from htd.engine.solver import warmup_cosine, warmup_multistep


def coco_iterations(epochs, batch_size):
    """Return the iterations of so many passes over the 117266 images of COCO train2017 that have objects.

    As published, a pass is a whole number of batches.
    """
    return round(epochs * math.ceil(117266 / batch_size))


def open_images_iterations(epochs, batch_size):
    """Return the iterations of so many passes over the 1743042 training images of the Challenge 2019."""
    return round(epochs * math.ceil(1743042 / batch_size))


# Decays after epochs 8 and 11 of 12; 16 and 22 of 24 are the same fractions of a training twice as long.
step = L(warmup_multistep)(
    max_iter="${train.max_iter}",
    milestones=[8 / 12, 11 / 12],
    gamma=0.1,
    warmup_iters=500,
    warmup_factor=0.001,
)

# Milestones of the trainings of 20 epochs.
decay_20_epochs = [16 / 20, 19 / 20]

cosine = L(warmup_cosine)(max_iter="${train.max_iter}", end_value=0.01, warmup_iters=50, warmup_factor=0.001)
