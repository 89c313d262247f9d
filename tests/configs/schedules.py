"""What a published length of training says of a dense leaf."""

import math

import pytest
from detectron2.config import instantiate

from tests.configs.dense_tables import BATCH, COCO_IMAGES


def assert_schedule(cfg, epochs, iterations, *drops):
    """Check a leaf's length, batch, warm-up of 500 steps, and drops of the rate, by iteration, to a tenth."""
    assert iterations == epochs * math.ceil(COCO_IMAGES / BATCH)
    assert cfg.train.max_iter == iterations
    assert cfg.dataloader.train.total_batch_size == cfg.train.reference_batch_size == BATCH
    multiplier = instantiate(cfg.lr_multiplier)
    rate = [multiplier(step / iterations) for step in (0, 250, 500)]
    assert rate == pytest.approx([0.001, 0.5005, 1.0], abs=1e-6)
    for number, drop in enumerate(drops):
        before, after = (multiplier((drop + d) / iterations) for d in (-1, 1))
        assert (before, after) == pytest.approx((0.1**number, 0.1 ** (number + 1)))
