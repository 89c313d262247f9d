"""Schedules that follow the batch."""

import pytest

from htd.engine.config import load_config, save_config
from htd.engine.config.scaling import scale_to_batch
from htd.errors import UserError
from tests.engine.tiny import TINY

SIXTEEN = ["train.reference_batch_size=16", "train.max_iter=90000", "lr_multiplier.warmup_iters=500"]


def test_a_quarter_of_the_batch_takes_four_times_as_long_at_a_quarter_of_the_rate(tmp_path):
    config = load_config(TINY, [*SIXTEEN, "dataloader.train.total_batch_size=4", "train.eval_period=5000"])
    line = scale_to_batch(config)
    assert config.optimizer.lr == pytest.approx(0.005)
    assert (config.train.max_iter, config.lr_multiplier.warmup_iters) == (360000, 2000)
    assert (config.train.eval_period, config.train.checkpointer.period) == (20000, 16)
    assert (config.train.log_period, config.train.vis_period) == (4, 0)
    assert "16 -> 4" in line and "optimizer.lr 0.02 -> 0.005" in line
    assert "train.max_iter 90000 -> 360000" in line and "\n" not in line

    save_config(config, tmp_path / "config.yaml")
    again = load_config(str(tmp_path / "config.yaml"))
    assert scale_to_batch(again) == "" and again.train.max_iter == 360000


def test_what_the_user_gave_is_kept():
    config = load_config(TINY, [*SIXTEEN, "dataloader.train.total_batch_size=32"])
    line = scale_to_batch(config, given={"train.max_iter", "dataloader.train.total_batch_size"})
    assert config.train.max_iter == 90000
    assert config.optimizer.lr == pytest.approx(0.04)
    assert line.endswith("as given: train.max_iter=90000")


def test_periods_do_not_vanish_and_the_reference_batch_changes_nothing():
    config = load_config(TINY, ["dataloader.train.total_batch_size=64"])
    scale_to_batch(config)
    assert (config.train.max_iter, config.train.checkpointer.period) == (1, 1)
    config = load_config(TINY)
    assert scale_to_batch(config) == "" and config.train.max_iter == 9


def test_a_config_without_a_reference_batch_is_refused():
    config = load_config(TINY, ["dataloader.train.total_batch_size=64"])
    del config.train["reference_batch_size"]
    with pytest.raises(UserError, match="reference_batch_size"):
        scale_to_batch(config)
