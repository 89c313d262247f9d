"""The training step on Detectron2's loop: mixed precision, clipping, finite losses, data that resume."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Generator, Iterable
from contextlib import AbstractContextManager

import torch
import torch.distributed as dist
from detectron2.engine import TrainerBase
from detectron2.utils import comm
from torch import nn

from htd.engine.guard import NonFiniteLossError, refuse_non_finite
from htd.engine.setup import kept_random_state
from htd.errors import UserError, one_line_errors

logger = logging.getLogger(__name__)
_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# PyTorch begins with 65536, by which a gradient of 1 overflows; those of weights, sums over all cells of a
# map, are larger on hard images. The scaler doubles it whenever 2000 steps went well.
FIRST_SCALE = 1024.0


class Precision:
    """Arithmetic of a training.

    Args:
        device: device of the model.
        enabled: whether the forward pass runs under autocast; float32 otherwise.
        dtype: ``bf16`` or ``fp16``; gradients of the latter are scaled, since they underflow.
    """

    def __init__(self, device: torch.device, *, enabled: bool = False, dtype: str = "bf16") -> None:
        self._device = device
        self._dtype = _TYPES[dtype]
        self._enabled = enabled
        scaled = enabled and dtype == "fp16"
        self.scaler = torch.amp.GradScaler(device.type, init_scale=FIRST_SCALE, enabled=scaled)

    def autocast(self) -> AbstractContextManager:
        """Return the context in which the forward pass runs."""
        return torch.autocast(self._device.type, dtype=self._dtype, enabled=self._enabled)


class Trainer(TrainerBase):
    """Trains a model that returns a dict of losses.

    What starts with ``loss_`` is summed; any other value of the dict is a metric that is only written.

    Args:
        model: the model, maybe wrapped for several processes.
        data_loader: yields lists of Detectron2's dicts without end; ``set_start(step)``, where it has it,
            makes it begin with the batch of that step.
        optimizer: the optimizer.
        precision: arithmetic of the forward pass and its loss scaler.
        clip_norm: bound of the total norm of all gradients; None for none.
        output_dir: where the batch behind a non-finite loss is described.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[list[dict]],
        optimizer: torch.optim.Optimizer,
        *,
        precision: Precision,
        clip_norm: float | None = None,
        output_dir: str,
    ) -> None:
        super().__init__()
        model.train()
        self.model = model
        self.data_loader = data_loader
        self.optimizer = optimizer
        self.batch: list[dict] = []
        self._precision = precision
        self._clip_norm = clip_norm
        self._output_dir = output_dir
        self._batches: Generator[list[dict]] | None = None

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run the iterations from ``start_iter`` to ``max_iter``, then end the loader's processes."""
        try:
            super().train(start_iter, max_iter)
        finally:
            # Left to the garbage collector, the queues go first and each process is waited for in vain.
            if self._batches is not None:
                self._batches.close()

    @one_line_errors()
    def before_train(self) -> None:
        """Run the hooks before the first step."""
        super().before_train()

    @one_line_errors()
    def run_step(self) -> None:
        """Take one batch and one step of the optimizer.

        Raises:
            NonFiniteLossError: a loss is not finite on any rank; the weights are those before the step.
        """
        begin = time.perf_counter()
        if self._batches is None:
            self._batches = _batches_from(self.data_loader, self.iter)
        self.batch = next(self._batches)
        data_time = time.perf_counter() - begin

        values = self._forward()
        total = sum(value for name, value in values.items() if name.startswith("loss_"))
        self.optimizer.zero_grad()
        scaler = self._precision.scaler
        scaler.scale(total).backward()
        values = {name: value.detach() for name, value in values.items()} | self._clip()
        self._write(values, data_time)
        scaler.step(self.optimizer)
        scaler.update()

    def state_dict(self) -> dict:
        """Return the iteration, the hooks' and the optimizer's state, and the loss scaler's."""
        state = super().state_dict()
        return state | {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._precision.scaler.state_dict(),
        }

    def load_state_dict(self, state_dict: dict) -> None:
        """Restore what :meth:`state_dict` has returned; rate, decay and the like stay those of the config.

        Raises:
            UserError: another training script or another model or optimizer has written the state.
        """
        lacking = sorted({"iteration", "optimizer", "scaler"} - state_dict.keys())
        if lacking:
            raise UserError(
                f"the checkpoint's training state lacks {', '.join(lacking)}: another script has written it; "
                "start anew from its weights by train.init_checkpoint, without --resume"
            )
        super().load_state_dict(state_dict)
        options = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        try:
            self.optimizer.load_state_dict(state_dict["optimizer"])
        except ValueError as error:
            raise UserError(
                f"the checkpoint's optimizer state is of another model or optimizer: {error}"
            ) from error
        for group, configured in zip(self.optimizer.param_groups, options, strict=True):
            group.update(configured, initial_lr=configured["lr"])
        if state_dict["scaler"] and self._precision.scaler.is_enabled():
            self._precision.scaler.load_state_dict(state_dict["scaler"])

    def _forward(self) -> dict[str, torch.Tensor]:
        try:
            with self._precision.autocast():
                return self.model(self.batch)
        except FloatingPointError as error:
            # Detectron2's proposal generator refuses non-finite boxes before there is a loss.
            names = ", ".join(str(image.get("file_name", "?")) for image in self.batch)
            raise NonFiniteLossError(
                f"{error} at iteration {self.iter}, images {names}; lower optimizer.lr"
            ) from error

    def _clip(self) -> dict[str, torch.Tensor]:
        """Bound the gradients' total norm and return it, unless a scaler may skip an overflowing step."""
        if self._clip_norm is None:
            return {}
        scaler = self._precision.scaler
        scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, self._clip_norm)
        return {} if scaler.is_enabled() else {"grad_norm": norm}

    def _write(self, values: dict[str, torch.Tensor], data_time: float) -> None:
        """Average the values over the ranks, read them at once, and store them if the losses are finite."""
        names = sorted(values)
        # A non-finite value on any rank makes the sum over the ranks non-finite, so that all of them stop
        # together.
        mine = torch.stack([values[name].float().reshape(()) for name in names])
        average = mine.clone()
        if comm.get_world_size() > 1:
            dist.all_reduce(average)
            average /= comm.get_world_size()
        numbers = dict(zip(names, average.tolist(), strict=True))
        watched = [name for name in names if name.startswith("loss_") or name == "grad_norm"]
        if not all(math.isfinite(numbers[name]) for name in watched):
            local = dict(zip(names, mine.tolist(), strict=True))
            refuse_non_finite(
                iteration=self.iter,
                losses={name: local[name] for name in watched},
                batch=self.batch,
                rates=[group["lr"] for group in self.optimizer.param_groups],
                forward=self._repeat,
                model=getattr(self.model, "module", self.model),
                output_dir=self._output_dir,
            )
        numbers["total_loss"] = sum(value for name, value in numbers.items() if name.startswith("loss_"))
        for name, number in numbers.items():
            self.storage.put_scalar(name, number)
        self.storage.put_scalar("data_time", data_time)

    def _repeat(self) -> object:
        with self._precision.autocast():
            return getattr(self.model, "module", self.model)(self.batch)


def _batches_from(loader: Iterable[list[dict]], step: int) -> Generator[list[dict]]:
    """Yield the batches of a loader from that of ``step`` on; the model's random numbers stay as they are."""
    if hasattr(loader, "set_start"):
        loader.set_start(step)
    elif step:
        logger.warning("the data loader has no set_start: the order of the data begins anew")
    with kept_random_state():
        iterator = iter(loader)
        first = next(iterator)
    yield first
    yield from iterator
