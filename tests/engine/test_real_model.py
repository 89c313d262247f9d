"""HTD itself, made small: resuming, a user's own classes, Detectron2's script, a published file."""

import sys
from argparse import Namespace

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import SimpleTrainer, default_setup, default_writers, hooks
from detectron2.engine.defaults import create_ddp_model
from detectron2.evaluation import inference_on_dataset

import train_net
from htd.data.toy import make_toy_data
from htd.engine.run import train
from htd.errors import run_cli
from tests.checkpoint.tiny import published
from tests.engine.real import LEAF, one_class, real_config
from tests.engine.test_resume import assert_equal, final
from tests.engine.tiny import Stop


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """Eight training and two validation images of different shapes."""
    return make_toy_data(tmp_path_factory.mktemp("real") / "toy", train=8, val=2)


@pytest.fixture
def call(monkeypatch):
    """Return a function that runs the command in this process."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["train_net.py", *map(str, arguments)])
        run_cli(train_net.command)

    return run


def test_resumed_with_workers_equals_uninterrupted_without(toy, tmp_path, stop_after):
    without = "dataloader.evaluator=null"
    whole = real_config(toy, tmp_path / "whole", without)
    assert whole.dataloader.train.aspect_ratio_grouping
    train(whole)

    parts = real_config(toy, tmp_path / "parts", without, "dataloader.train.num_workers=2")
    stop_after(3)
    with pytest.raises(Stop):
        train(parts)
    torch.manual_seed(999)
    train(parts, resume=True)
    assert_equal(final(whole), final(parts))


def test_own_data_of_one_class_from_weights_of_others(toy, tmp_path, call):
    run = tmp_path / "run"
    source = instantiate(real_config(toy, run).model)
    torch.save({"model": source.state_dict()}, tmp_path / "six.pth")
    one_class(toy / "annotations" / "instances_train.json", tmp_path / "one.json", category=9)
    one_class(toy / "annotations" / "instances_val.json", tmp_path / "val.json", category=9)
    call(
        *("--config-file", run / "leaf.yaml", "--train-json", tmp_path / "one.json"),
        *("--train-images", toy / "train", "train.max_iter=1", "optimizer.lr=0.001"),
        f"train.init_checkpoint={tmp_path / 'six.pth'}",
    )
    log = (run / "log.txt").read_text()
    assert "own data: 1 class (star); train " in log and "without --val-json nothing is evaluated" in log
    (line,) = [line for line in log.splitlines() if "re-initialized for" in line]
    anew = line.partition("re-initialized for num_classes=1: ")[2].split(";")[0].split(", ")
    assert len(anew) >= 4 and all("cls_score" in name or "global_vector.fc" in name for name in anew)
    weights = torch.load(run / "model_final.pth", weights_only=True)["model"]
    assert weights["roi_heads.stages.0.head.cls_score.weight"].shape[0] == 2
    body = "backbone.bottom_up.stem.conv1.weight"
    assert torch.equal(weights[body], source.state_dict()[body])

    # What such a run has saved evaluates as soon as it is told on what.
    call(
        *("--eval-only", "--config-file", run / "config.yaml", "--val-json", tmp_path / "val.json"),
        *("--val-images", toy / "val", f"train.init_checkpoint={run / 'model_final.pth'}"),
    )
    assert (run / "evaluation.json").is_file()


@pytest.mark.parametrize("leaf", [LEAF, "configs/tsd/tsd_faster_x101_64x4d_fpn_dcn_ms.py"])
def test_detectron2s_own_script_can_run_the_leaf(toy, tmp_path, leaf):
    """The order of its LazyConfig script, with its own set-up, evaluation and checkpoints."""
    real_config(toy, tmp_path, leaf=leaf)
    arguments = Namespace(config_file=str(tmp_path / "leaf.yaml"), eval_only=False, resume=False)
    config = LazyConfig.load(arguments.config_file)
    config = LazyConfig.apply_overrides(config, ["train.max_iter=2"])
    default_setup(config, arguments)
    model = instantiate(config.model)
    model.to(config.train.device)
    config.optimizer.params.model = model
    optimizer = instantiate(config.optimizer)
    loader = instantiate(config.dataloader.train)
    model = create_ddp_model(model, **config.train.ddp)
    trainer = SimpleTrainer(model, loader, optimizer)
    checkpointer = DetectionCheckpointer(model, config.train.output_dir, trainer=trainer)

    def evaluate():
        return inference_on_dataset(
            model, instantiate(config.dataloader.test), instantiate(config.dataloader.evaluator)
        )

    writers = default_writers(config.train.output_dir, config.train.max_iter)
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=instantiate(config.lr_multiplier)),
            hooks.PeriodicCheckpointer(checkpointer, **config.train.checkpointer),
            hooks.EvalHook(config.train.eval_period, evaluate),
            hooks.PeriodicWriter(writers, period=config.train.log_period),
        ]
    )
    checkpointer.resume_or_load(config.train.init_checkpoint, resume=False)
    trainer.train(0, config.train.max_iter)
    assert checkpointer.has_checkpoint() and "bbox/AP" in (tmp_path / "metrics.json").read_text()


def test_a_published_file_is_answered_by_the_command_that_converts_it(tmp_path, call, capsys):
    file = tmp_path / "published.pth"
    torch.save({"meta": {}, "state_dict": published()}, file)
    with pytest.raises(SystemExit):
        call("--config-file", LEAF, "--eval-only", f"train.init_checkpoint={file}", "train.device=cpu")
    error = capsys.readouterr().err
    assert error.startswith(f"error: {file} holds published weights (HTD)") and error.count("\n") == 1
    assert (
        f"tools/convert_checkpoint.py --config-file {LEAF} {file} {tmp_path}/published_converted.pth" in error
    )
