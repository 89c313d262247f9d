"""A run that is stopped and resumed equals one that is not, bit for bit."""

from pathlib import Path

import pytest
import torch

from htd.engine.run import train
from htd.errors import UserError
from tests.engine.tiny import Stop


def final(config):
    return torch.load(f"{config.train.output_dir}/model_final.pth", weights_only=True)


def assert_equal(one, other, where=""):
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for i, pair in enumerate(zip(one, other, strict=True)):
            assert_equal(*pair, f"{where}.{i}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_equals_uninterrupted(tiny, stop_after, workers):
    # Evaluation at steps 3 and 6 draws random numbers; 11 images in groups; stopped after 6, saved after 4.
    settings = ["train.eval_period=3", f"dataloader.train.num_workers={workers}", "optimizer.lr=0.1"]
    whole = tiny(*settings, output="whole")
    train(whole)

    parts = tiny(*settings, output="parts")
    stop_after(6)
    with pytest.raises(Stop):
        train(parts)
    torch.manual_seed(999)
    train(parts, resume=True)

    assert_equal(final(whole), final(parts))
    assert final(whole)["iteration"] == 8


def test_evaluation_and_pictures_do_not_change_a_training(tiny):
    plain, busy = tiny(output="plain"), tiny("train.eval_period=2", "train.vis_period=2", output="busy")
    train(plain)
    train(busy)
    assert_equal(final(plain), final(busy))


def test_loss_scaler_is_resumed(tiny, stop_after):
    settings = ["train.amp.enabled=true", "train.amp.dtype=fp16"]
    whole, parts = tiny(*settings, output="whole"), tiny(*settings, output="parts")
    train(whole)
    stop_after(5)
    with pytest.raises(Stop):
        train(parts)
    train(parts, resume=True)
    assert final(whole)["trainer"]["scaler"]["_growth_tracker"] > 0
    assert_equal(final(whole), final(parts))


def test_the_config_rules_over_the_saved_rate(tiny):
    train(tiny("train.max_iter=4"))
    config = tiny("train.max_iter=6", "optimizer.lr=0.5", "optimizer.weight_decay=0")
    train(config, resume=True)
    (group,) = final(config)["trainer"]["optimizer"]["param_groups"]
    assert (group["initial_lr"], group["weight_decay"]) == (0.5, 0)


def test_resuming_at_or_past_the_end_is_an_error(tiny):
    config = tiny("train.max_iter=3")
    train(config)
    for length in (3, 2):
        config.train.max_iter = length
        with pytest.raises(UserError, match=f"has done 3 iterations and train.max_iter is {length}"):
            train(config, resume=True)


def test_resuming_without_a_checkpoint_is_an_error(tiny):
    config = tiny("train.max_iter=3")
    with pytest.raises(UserError, match="has no checkpoint"):
        train(config, resume=True)
    train(config)
    (Path(config.train.output_dir) / "last_checkpoint").write_text("gone.pth")
    with pytest.raises(UserError, match="gone.pth is named by .* but is not there"):
        train(config, resume=True)


def test_resuming_from_weights_only_is_an_error(tiny):
    config = tiny("train.max_iter=3")
    train(config)
    folder = Path(config.train.output_dir)
    (folder / "last_checkpoint").write_text("model_best.pth")
    torch.save({"model": final(config)["model"]}, folder / "model_best.pth")
    with pytest.raises(UserError, match="model_best.pth has weights only.*train.init_checkpoint=.*best.pth"):
        train(config, resume=True)
    torch.save({"model": final(config)["model"], "trainer": {"iteration": 1}}, folder / "model_best.pth")
    with pytest.raises(UserError, match="training state lacks optimizer, scaler"):
        train(config, resume=True)


def test_resuming_another_class_count_is_an_error(tiny):
    train(tiny("train.max_iter=3"))
    with pytest.raises(UserError, match=r"head.cls.weight is \(3, 4\) in the file and \(6, 4\) in the model"):
        train(tiny("model.num_classes=5"), resume=True)


def test_resuming_after_a_restart_by_torchrun_needs_no_flag(tiny, stop_after, monkeypatch, log):
    config = tiny()
    stop_after(5)
    with pytest.raises(Stop):
        train(config)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    train(config)
    assert "at iteration 4" in log()
