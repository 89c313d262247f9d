"""What happens between training steps: evaluation, checkpoints, the best one, pictures, phases, the log."""

from __future__ import annotations

import datetime
import json
import logging
import math
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from detectron2.engine import HookBase, hooks
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, EventWriter, get_event_storage
from torch import nn

from htd.checkpoint.training import TrainingCheckpointer
from htd.engine.setup import kept_random_state, random_state
from htd.errors import UserError
from htd.files import write_file
from htd.modeling.tood import TwoPhaseCriterion

logger = logging.getLogger(__name__)
Draw = Callable[..., np.ndarray]


class EvalHook(hooks.EvalHook):
    """Detectron2's evaluation every n iterations and at the end, unless the training failed."""

    def after_train(self) -> None:
        """Evaluate if the last iteration was completed."""
        if self.trainer.iter >= self.trainer.max_iter:
            super().after_train()


class CheckpointHook(HookBase):
    """Saves a checkpoint every n iterations and at the end, and removes all but the last of the former.

    It runs on every rank: a checkpoint holds the random states of all of them.

    Args:
        checkpointer: writes the files ``model_<iteration>.pth`` and ``model_final.pth``.
        period: iterations between checkpoints.
        max_to_keep: how many numbered checkpoints stay; those of other runs in the folder are left alone.
    """

    def __init__(
        self, checkpointer: TrainingCheckpointer, *, period: int, max_to_keep: int | None = None
    ) -> None:
        self._checkpointer = checkpointer
        self._period = period
        self._max_to_keep = max_to_keep
        self._files: list[Path] = []

    def before_train(self) -> None:
        """When resuming, take over the numbered checkpoints of the run so far."""
        if self.trainer.start_iter:
            found = sorted(Path(self._checkpointer.save_dir).glob("model_" + "[0-9]" * 7 + ".pth"))
            self._files = [file for file in found if int(file.stem[-7:]) < self.trainer.start_iter]

    def after_step(self) -> None:
        """Save when it is time."""
        done = self.trainer.iter + 1
        last = done == self.trainer.max_iter
        if not last and done % self._period:
            return
        states = comm.gather(random_state())
        name = "model_final" if last else f"model_{self.trainer.iter:07d}"
        self._checkpointer.save(name, iteration=self.trainer.iter, random_states=states)
        if not last and self._max_to_keep:
            self._files.append(Path(self._checkpointer.save_dir) / f"{name}.pth")
            self._remove_old()

    def _remove_old(self) -> None:
        while len(self._files) > self._max_to_keep:
            file = self._files.pop(0)
            if comm.is_main_process():
                file.unlink(missing_ok=True)


class BestCheckpointHook(HookBase):
    """Keeps the weights with the highest value of one result of the evaluation in ``model_best.pth``.

    The value stands beside it in ``model_best.json``, so that a resumed run does not replace it by a worse
    one. Place it after the evaluation hook.

    Args:
        checkpointer: writes the weights.
        metric: name of the result, such as ``bbox/AP``.
    """

    def __init__(self, checkpointer: TrainingCheckpointer, metric: str) -> None:
        self._checkpointer = checkpointer
        self._metric = metric
        self._record = Path(checkpointer.save_dir) / "model_best.json"
        self._best = -math.inf
        self._seen = -1

    def before_train(self) -> None:
        """When resuming, continue from the best value so far."""
        if self.trainer.start_iter and self._record.is_file():
            record = json.loads(self._record.read_text())
            if record["metric"] == self._metric:
                self._best = record["value"]

    def after_step(self) -> None:
        """Look whether there is a new result."""
        self._look()

    def after_train(self) -> None:
        """Look at the result of the last evaluation."""
        self._look()
        if self._seen < 0 and self.trainer.iter >= self.trainer.max_iter:
            logger.warning("the evaluation has no result %s, so no best checkpoint was kept", self._metric)

    def _look(self) -> None:
        results = self.trainer.storage.latest()
        value, iteration = results.get(self._metric, (math.nan, -1))
        if iteration == self._seen:
            return
        self._seen = iteration
        if math.isfinite(value) and value > self._best:
            self._best = value
            # The evaluation after the last step is stored one iteration later than those between steps.
            done = min(iteration + 1, self.trainer.max_iter)
            self._checkpointer.save_model("model_best", iteration=done - 1)
            record = {"metric": self._metric, "value": value, "iterations": done}
            write_file(self._record, json.dumps(record))
            logger.info(
                "best %s so far: %.4f after %d iterations, saved as model_best.pth", self._metric, value, done
            )


class PicturesHook(HookBase):
    """Shows the first images of a training batch with their objects and the present predictions.

    Args:
        model: the model, not wrapped for several processes.
        draw: ``draw(image, predictions)`` returns a picture (H, W, 3), uint8, RGB. ``image`` is the model's
            input dict at network size; ``predictions`` are instances in the same frame.
        period: iterations between pictures.
        count: images each time.
    """

    def __init__(self, model: torch.nn.Module, draw: Draw, *, period: int, count: int = 2) -> None:
        self._model = model
        self._draw = draw
        self._period = period
        self._count = count

    def after_step(self) -> None:
        """Draw when it is time; training goes on as if it had not happened."""
        if (self.trainer.iter + 1) % self._period:
            return
        images = [_at_network_size(image) for image in self.trainer.batch[: self._count]]
        self._model.eval()
        try:
            with torch.no_grad(), kept_random_state():
                outputs = self._model(images)
        finally:
            self._model.train()
        for number, (image, output) in enumerate(zip(images, outputs, strict=True)):
            picture = self._draw(image, output["instances"].to("cpu"))
            self.trainer.storage.put_image(
                f"train/{number}", np.ascontiguousarray(picture.transpose(2, 0, 1))
            )


def _at_network_size(image: dict) -> dict:
    height, width = image["image"].shape[-2:]
    return {**image, "height": height, "width": width}


class PhaseHook(HookBase):
    """Hands the global iteration to all modules that have ``set_iteration``, before each step.

    The log says in which phase a training with :class:`htd.modeling.tood.TwoPhaseCriterion` starts, and when
    it changes.

    Args:
        model: the model, not wrapped for several processes.
    """

    def __init__(self, model: nn.Module) -> None:
        self._listeners = [module for module in model.modules() if hasattr(module, "set_iteration")]
        self._phases = [module for module in self._listeners if isinstance(module, TwoPhaseCriterion)]

    def before_train(self) -> None:
        """Turn epochs into iterations, and say what is to come.

        Raises:
            UserError: a switch is given in epochs, and the data loader does not say how long they are.
        """
        for phases in self._phases:
            if phases.switch_epochs:
                phases.resolve(iterations_an_epoch(self.trainer.data_loader))
        if comm.is_main_process():
            for phases in self._phases:
                self._announce(phases)

    def before_step(self) -> None:
        """Hand on the iteration; say so when the phase changes."""
        iteration = self.trainer.iter
        for module in self._listeners:
            module.set_iteration(iteration)
        begins = any(phases.switch_iter == iteration > self.trainer.start_iter for phases in self._phases)
        if begins and comm.is_main_process():
            logger.info("the aligned phase of the training begins at iteration %d", iteration)

    def _announce(self, phases: TwoPhaseCriterion) -> None:
        switch = phases.switch_iter
        if self.trainer.start_iter >= switch:
            logger.info("the training starts in the aligned phase, which is from iteration %d on", switch)
            return
        logger.info(
            "the training starts in the initial phase; the aligned phase is from iteration %d on", switch
        )
        if self.trainer.max_iter <= switch:
            key = "switch_iter" if phases.switch_epochs is None else "switch_epochs"
            logger.warning(
                "the training ends at iteration %d, before its aligned phase, which would begin at iteration "
                "%d: lower model.criterion.%s, or train longer",
                self.trainer.max_iter,
                switch,
                key,
            )


def iterations_an_epoch(loader: object) -> int:
    """Return how many steps of all ranks together a data loader takes for each image once.

    Raises:
        UserError: it does not say.
    """
    count = getattr(loader, "iterations_an_epoch", None)
    if count is None:
        raise UserError(
            f"the training's {type(loader).__name__} has no iterations_an_epoch, so the length of an epoch "
            "is not known: give model.criterion.switch_iter and set switch_epochs to null"
        )
    return count


class ConsoleWriter(EventWriter):
    """Logs iteration, losses, learning rate, time, ETA and peak memory of this process.

    Args:
        max_iter: length of the training.
        window: iterations over which losses are smoothed by their median.
    """

    def __init__(self, max_iter: int, window: int = 20) -> None:
        self._max_iter = max_iter
        self._window = window

    def write(self) -> None:
        """Log one line about the newest iteration."""
        storage = get_event_storage()
        if storage.iter >= self._max_iter:  # called once more when the training is over
            return
        if "lr" not in storage.histories():  # once more, too, when the very first iteration has failed
            return
        done = storage.iter + 1
        losses = [(name, values) for name, values in storage.histories().items() if name.startswith("loss_")]
        terms = "  ".join(f"{name} {values.median(self._window):.4g}" for name, values in losses)
        parts = [
            f"iteration {done}/{self._max_iter}",
            f"total_loss {storage.history('total_loss').median(self._window):.4g}",
            terms,
            f"lr {storage.history('lr').latest():.4g}",
            *_speed(storage, self._max_iter - done),
            f"peak memory {peak_memory() / 2**20:.0f} MB",
        ]
        logger.info("  ".join(parts))


def peak_memory() -> int:
    """Return the most bytes that this process has held: on the GPU if it uses one, else resident."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _speed(storage: EventStorage, left: int) -> list[str]:
    """Return time an iteration and ETA; nothing in the first iterations, which are not timed."""
    if "time" not in storage.histories():
        return []
    data = storage.history("data_time").avg(20)
    seconds = storage.history("time").median(1000)
    eta = datetime.timedelta(seconds=int(seconds * left))
    return [f"{seconds:.3f} s/it (data {data:.3f})", f"eta {eta}"]
