"""Whole runs: what they write, how they evaluate, and Detectron2's own way of running a leaf."""

import json

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import instantiate
from detectron2.engine import SimpleTrainer, default_writers, hooks
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from htd.engine.config import load_config
from htd.engine.hooks import BestCheckpointHook
from htd.engine.run import evaluate, train
from htd.errors import UserError


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def test_a_run_writes_what_it_promises_and_evaluates_alike_afterwards(tiny, tmp_path, log):
    folder = tmp_path / "run"
    config = tiny("train.eval_period=3", "train.vis_period=4")
    train(config, notes=["a note"])
    names = {file.name for file in folder.iterdir()}
    expected = {"config.yaml", "log.txt", "metrics.json", "model_0000003.pth", "model_0000007.pth"}
    assert expected | {"model_final.pth", "model_best.pth", "model_best.json"} <= names
    # Evaluated after 3, 6 and 9 iterations; written after 4, 8 and 9.
    rows = metrics(folder)
    assert [row["iteration"] for row in rows if "bbox/AP" in row] == [2, 5, 9]
    assert {"loss_cls", "loss_box_reg", "total_loss", "lr", "data_time", "tiny/num_boxes"} <= rows[-2].keys()
    text = log()
    assert "iteration 8/9  total_loss" in text and "eta 0:00:00" in text and "peak memory" in text
    assert "a note" in text and "detectron2  " in text and "parameters" in text
    assert load_config(str(folder / "config.yaml")).train.max_iter == 9
    events = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    assert [image.step for image in events.Images("train/1")] == [3, 7]

    final = [row["bbox/AP"] for row in rows if "bbox/AP" in row][-1]
    results = evaluate(tiny(f"train.init_checkpoint={folder / 'model_final.pth'}", output="evaluation"))
    assert results["bbox"]["AP"] == pytest.approx(final)
    written = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    assert written == {"bbox/AP": pytest.approx(final)}


def test_evaluating_without_weights_or_evaluator_is_an_error(tiny):
    with pytest.raises(UserError, match="train.init_checkpoint, which is empty"):
        evaluate(tiny())
    config = tiny("train.init_checkpoint=x.pth")
    config.dataloader.evaluator = None
    with pytest.raises(UserError, match="no dataloader.evaluator"):
        evaluate(config)
    config.dataloader.pop("evaluator")
    with pytest.raises(UserError, match="no dataloader.evaluator"):
        evaluate(config)


def test_a_device_that_is_not_there_is_an_error(tiny, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="set train.device=cpu"):
        train(tiny("train.device=cuda"))
    with pytest.raises(UserError, match="train.device=meta cannot be used here"):
        train(tiny("train.device=meta"))


class Storage:
    """Stands for the trainer and its storage."""

    def __init__(self, start_iter):
        self.start_iter, self.max_iter, self.iter, self.values = start_iter, 100, 100, {}

    @property
    def storage(self):
        return self

    def latest(self):
        return self.values


class Recorder:
    """Stands for the checkpointer."""

    def __init__(self, save_dir):
        self.save_dir, self.saved = save_dir, []

    def save_model(self, name, iteration):
        self.saved.append(iteration)


def test_the_best_checkpoint_follows_the_metric_and_survives_a_resume(tmp_path):
    def feed(start, values):
        recorder = Recorder(tmp_path)
        hook = BestCheckpointHook(recorder, "bbox/AP")
        hook.trainer = Storage(start)
        hook.before_train()
        for iteration, value in values:
            hook.trainer.values["bbox/AP"] = (value, iteration)
            hook.after_step()
            hook.after_step()
        hook.after_train()
        return recorder.saved

    assert feed(0, [(9, float("nan")), (19, 0.3), (29, 0.2), (39, 0.4)]) == [19, 39]
    assert feed(40, [(49, 0.39), (59, 0.41), (100, 0.5)]) == [59, 99]
    assert json.loads((tmp_path / "model_best.json").read_text())["iterations"] == 100
    assert feed(0, [(9, 0.1)]) == [9]


def test_a_best_metric_that_does_not_exist_is_said(tiny, log):
    train(tiny("train.max_iter=1", "train.best_metric=bbox/AQ"))
    assert "no result bbox/AQ" in log()


def test_detectron2s_own_script_can_run_a_leaf(tiny, tmp_path):
    """The order of its LazyConfig script: model, optimizer, loader, trainer, hooks, checkpointer."""
    config = tiny()
    (tmp_path / "run").mkdir()
    model = instantiate(config.model)
    model.to(config.train.device)
    config.optimizer.params.model = model
    optimizer = instantiate(config.optimizer)
    # Detectron2's trainer sums and writes whatever the model returns.
    forward = model.forward
    model.forward = lambda images: {k: v for k, v in forward(images).items() if k.startswith("loss_")}
    trainer = SimpleTrainer(model, instantiate(config.dataloader.train), optimizer)
    checkpointer = DetectionCheckpointer(model, config.train.output_dir, trainer=trainer)
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=instantiate(config.lr_multiplier)),
            hooks.PeriodicCheckpointer(checkpointer, **config.train.checkpointer),
            hooks.PeriodicWriter(
                default_writers(config.train.output_dir, config.train.max_iter),
                period=config.train.log_period,
            ),
        ]
    )
    checkpointer.resume_or_load(config.train.init_checkpoint, resume=False)
    trainer.train(0, config.train.max_iter)
    # 9 of 9 iterations: both decays are behind, the warm-up of 3 too.
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.02 * 0.01)
    assert checkpointer.has_checkpoint()
