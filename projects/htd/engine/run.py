"""A whole training, or a whole evaluation, from a config."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from detectron2.engine import HookBase, hooks
from detectron2.engine.defaults import create_ddp_model
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from detectron2.utils.events import JSONWriter, TensorboardXWriter
from omegaconf import DictConfig, ListConfig
from torch import nn

from htd.checkpoint.training import TrainingCheckpointer
from htd.checkpoint.weights import load_fitting, load_whole
from htd.engine.config import build, save_config
from htd.engine.config.own_data import class_dependent, described_counts
from htd.engine.evaluation import Evaluation
from htd.engine.hooks import (
    BestCheckpointHook,
    CheckpointHook,
    ConsoleWriter,
    EvalHook,
    IterationHook,
    PicturesHook,
)
from htd.engine.setup import describe_data, prepare, set_random_state
from htd.engine.trainer import Precision, Trainer
from htd.errors import UserError
from htd.files import write_file
from htd.visualize import draw_input

logger = logging.getLogger(__name__)


def train(config: DictConfig, *, resume: bool = False, notes: Sequence[str] = ()) -> None:
    """Train the model of a config in this process, one of maybe several.

    Writes to ``train.output_dir``: ``config.yaml``, ``log.txt``, ``metrics.json``, TensorBoard events,
    checkpoints ``model_<iteration>.pth``, ``model_best.pth`` and ``model_final.pth``.

    Args:
        config: the config; see :func:`htd.engine.config.load_config`.
        resume: continue from the last checkpoint in ``train.output_dir``.
        notes: lines for the log about how the config came about.

    Raises:
        UserError: what the user can repair in config, files or data; a loss that is not finite.
    """
    prepare(config, notes)
    last = _checkpoint_to_resume(config, resume)
    model = build_model(config)
    loader = build(config.dataloader.train, "dataloader.train")
    describe_data(config, "train")
    evaluation = Evaluation(config.dataloader)
    if evaluation.build():
        describe_data(config, "test")
    optimizer = build_optimizer(config, model)
    device = torch.device(config.train.device)
    amp = config.train.amp
    trainer = Trainer(
        _distributed(model, config.train.ddp, device),
        loader,
        optimizer,
        precision=Precision(device, enabled=amp.enabled, dtype=amp.get("dtype", "bf16")),
        clip_norm=config.train.get("clip_grad_norm"),
        output_dir=config.train.output_dir,
    )
    checkpointer = TrainingCheckpointer(model, config.train.output_dir, trainer=trainer)
    trainer.register_hooks(_hooks(config, model, checkpointer, evaluation))
    if last:
        start = _resume(checkpointer, trainer, last, config.train.max_iter)
    else:
        start = _begin(checkpointer, config)
    if comm.is_main_process():
        save_config(config, Path(config.train.output_dir) / "config.yaml")
    trainer.train(start, config.train.max_iter)


def evaluate(config: DictConfig, *, notes: Sequence[str] = ()) -> dict:
    """Evaluate the weights in ``train.init_checkpoint`` on the test data.

    With the config's ``test_time_augmentation``, if it has one; the evaluations during a training and at its
    end are always of the model itself, so that they are quick and can be compared with each other.

    Args:
        config: the config.
        notes: lines for the log about how the config came about.

    Returns:
        task -> metric -> value on the main process; also written to ``evaluation.json`` in
        ``train.output_dir``.

    Raises:
        UserError: no weights are named, they do not fit the model, or there is nothing to evaluate with.
    """
    path = config.train.init_checkpoint
    if not path:
        raise UserError(
            "--eval-only evaluates train.init_checkpoint, which is empty: add train.init_checkpoint=FILE"
        )
    prepare(config, notes)
    augmentation = config.get("test_time_augmentation")
    evaluation = Evaluation(config.dataloader, augmentation)
    if not evaluation.build():
        raise UserError(
            "the config has no dataloader.evaluator or no test data, so there is nothing to evaluate with: "
            "give --val-json and --val-images, or take a config that has them"
        )
    describe_data(config, "test")
    model = build_model(config)
    load_whole(TrainingCheckpointer(model), path, everything=False)
    if augmentation is not None:
        logger.info("evaluating with test_time_augmentation")
    results = evaluation(model)
    if comm.is_main_process():
        file = Path(config.train.output_dir) / "evaluation.json"
        write_file(file, json.dumps(flatten_results_dict(results), indent=1))
        logger.info("results are in %s", file)
    return results


def build_model(config: DictConfig) -> nn.Module:
    """Build the model on its device and log its size."""
    model = build(config.model, "model").to(config.train.device)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    logger.info(
        "model %s: %.2f M parameters, %.2f M of them trained",
        type(model).__name__,
        total / 1e6,
        trained / 1e6,
    )
    return model


def build_optimizer(config: DictConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer; the model is in the config only meanwhile, since it could not be saved with it."""
    config.optimizer.params.model = model
    try:
        optimizer = build(config.optimizer, "optimizer")
    finally:
        config.optimizer.params.pop("model")
    for group in optimizer.param_groups:
        # Values such as betas arrive as config lists, which a checkpoint could not be read with.
        group.update({name: tuple(value) for name, value in group.items() if isinstance(value, ListConfig)})
    return optimizer


def _distributed(model: nn.Module, options: DictConfig, device: torch.device) -> nn.Module:
    # Without this, Detectron2 hands a GPU number to a model on the CPU.
    devices = {} if device.type == "cuda" else {"device_ids": None}
    return create_ddp_model(model, **devices, **options)


def _checkpoint_to_resume(config: DictConfig, resume: bool) -> Path | None:
    """Return the file to resume from, also when torchrun has restarted a run that had saved something."""
    saved = TrainingCheckpointer(nn.Module(), config.train.output_dir)
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    if resume or (restarted and saved.has_checkpoint()):
        return saved.last_checkpoint()
    return None


def start_from(checkpointer: TrainingCheckpointer, path: str, model: DictConfig) -> None:
    """Load the weights that a training of a model's config starts from; "" initializes all of them."""
    load_fitting(checkpointer, path, partial(class_dependent, model), described_counts(model))


def _begin(checkpointer: TrainingCheckpointer, config: DictConfig) -> int:
    """Load the weights to start from and return the first iteration."""
    start_from(checkpointer, config.train.init_checkpoint, config.model)
    if checkpointer.has_checkpoint():
        logger.warning("%s has a run in it, which this one replaces", config.train.output_dir)
    return 0


def _resume(checkpointer: TrainingCheckpointer, trainer: Trainer, file: Path, max_iter: int) -> int:
    """Restore a run and return the iteration to go on with."""
    rest = load_whole(checkpointer, str(file), everything=True)
    if "trainer" not in checkpointer.entries:
        raise UserError(
            f"--resume: {file} has weights only, no optimizer and no iteration: write the name of a "
            "model_<iteration>.pth of that folder into last_checkpoint, or start anew from the weights "
            f"without --resume: train.init_checkpoint={file}"
        )
    start = trainer.iter + 1
    if start >= max_iter:
        raise UserError(
            f"--resume: checkpoint {file} has done {start} iterations and train.max_iter is {max_iter}: "
            "nothing is left to train; raise train.max_iter, or evaluate it with --eval-only"
        )
    states = rest.get("random_states", [])
    if len(states) == comm.get_world_size():
        set_random_state(states[comm.get_rank()])
    else:
        logger.warning(
            "the run had %d processes and now has %d: random states begin anew",
            len(states),
            comm.get_world_size(),
        )
    logger.info("resuming from %s at iteration %d", file, start)
    return start


def _hooks(
    config: DictConfig,
    model: nn.Module,
    checkpointer: TrainingCheckpointer,
    evaluation: Evaluation,
) -> list[HookBase | None]:
    """Return the hooks in the order in which they run after a step."""
    settings, main = config.train, comm.is_main_process()
    best = settings.get("best_metric") if evaluation.build() else None
    return [
        hooks.IterationTimer(),
        IterationHook(model),
        hooks.LRScheduler(scheduler=build(config.lr_multiplier, "lr_multiplier")),
        # Before the evaluation, which may take long and may fail.
        CheckpointHook(checkpointer, **settings.checkpointer),
        EvalHook(settings.eval_period, partial(evaluation, model)),
        BestCheckpointHook(checkpointer, best) if main and best else None,
        _pictures(config, model) if main else None,
        hooks.PeriodicWriter(_writers(settings), period=settings.log_period) if main else None,
    ]


def _pictures(config: DictConfig, model: nn.Module) -> PicturesHook | None:
    period = config.train.get("vis_period", 0)
    dataset = config.dataloader.train.get("dataset", {}).get("name", "")
    draw = partial(draw_input, dataset_name=dataset, image_format=config.model.get("input_format", "RGB"))
    return PicturesHook(model, draw, period=period) if period else None


def _writers(settings: DictConfig) -> list:
    folder = settings.output_dir
    return [
        ConsoleWriter(settings.max_iter),
        JSONWriter(os.path.join(folder, "metrics.json")),
        TensorboardXWriter(folder),
    ]
