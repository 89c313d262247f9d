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
from detectron2.utils.events import CommonMetricPrinter, EventStorage, get_event_storage
from torch import nn

from htd.checkpoint.training import TrainingCheckpointer
from htd.engine.setup import kept_random_state, random_state
from htd.files import write_file

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


class IterationHook(HookBase):
    """Tells the parts of a model that change during a training how far it is.

    All modules that have ``set_iteration`` are handed the global iteration before each step, and those that
    have ``begin_training`` first and last iteration and the length of an epoch, None if the data loader does
    not say it.

    Args:
        model: the model, not wrapped for several processes.
    """

    def __init__(self, model: nn.Module) -> None:
        modules = list(model.modules())
        self._beginners = [module for module in modules if hasattr(module, "begin_training")]
        self._listeners = [module for module in modules if hasattr(module, "set_iteration")]

    def before_train(self) -> None:
        """Say where the training starts and ends."""
        epoch = getattr(self.trainer.data_loader, "iterations_an_epoch", None)
        for module in self._beginners:
            module.begin_training(self.trainer.start_iter, self.trainer.max_iter, epoch)

    def before_step(self) -> None:
        """Hand on the iteration."""
        for module in self._listeners:
            module.set_iteration(self.trainer.iter)


class ConsoleWriter(CommonMetricPrinter):
    """Detectron2's printer of progress with a line of its own: losses, rate, time, ETA and peak memory."""

    def write(self) -> None:
        """Log one line about the newest iteration."""
        storage = get_event_storage()
        if storage.iter >= self._max_iter:  # called once more when the training is over
            return
        if "lr" not in storage.histories():  # once more, too, when the very first iteration has failed
            return
        done = storage.iter + 1
        losses = [(name, values) for name, values in storage.histories().items() if name.startswith("loss_")]
        terms = "  ".join(f"{name} {values.median(self._window_size):.4g}" for name, values in losses)
        parts = [
            f"iteration {done}/{self._max_iter}",
            f"total_loss {storage.history('total_loss').median(self._window_size):.4g}",
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
