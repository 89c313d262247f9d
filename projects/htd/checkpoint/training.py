"""Checkpoints of a training: whole or not there, looked at before any of it reaches a model."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer

from htd.errors import UserError, reason
from htd.files import write_file
from htd.modeling.dense.boxes import decoder_name

# Entry of a file of weights with what the corners of boxes mean to them, a class of htd.layers.
BOX_CONVENTION = "box_convention"
# The same with what a dense detector decodes boxes with, as text.
BOX_DECODER = "box_decoder"


class TrainingCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with atomic writes.

    Attributes:
        incompatible: what did not fit in the last :meth:`load`: ``missing_keys`` and ``unexpected_keys``.
        other_shapes: tensor -> (shape in the file, shape in the model), those of the last load that differ.
        entries: what the last file had at its top, such as ``model`` and ``trainer``.
    """

    entries: frozenset[str] = frozenset()
    incompatible: Any = None
    other_shapes: dict[str, tuple[tuple, tuple]]

    @property
    def box_convention(self) -> str | None:
        """Name of the class of the model's ``box_convention``; None: the model has none."""
        convention = getattr(self.model, "box_convention", None)
        return None if convention is None else type(convention).__name__

    @property
    def box_decoder(self) -> str | None:
        """How the model's ``decoder`` is called; None: the model has no such part."""
        decoder = getattr(self.model, "decoder", None)
        return None if decoder is None else decoder_name(decoder)

    def save(self, name: str, **extra: Any) -> None:
        """Write model, checkpointables and ``extra`` to ``<name>.pth``, the one to resume from now on."""
        if not self.save_dir or not self.save_to_disk:
            return
        state = {key: item.state_dict() for key, item in self.checkpointables.items()}
        self._write(name, {**self._model_entries(), **state, **extra})
        self.tag_last_checkpoint(f"{name}.pth")

    def save_model(self, name: str, **extra: Any) -> None:
        """Write the model alone and ``extra`` to ``<name>.pth``; resuming does not look at it."""
        if self.save_dir and self.save_to_disk:
            self._write(name, {**self._model_entries(), **extra})

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Name the checkpoint to resume from."""
        write_file(Path(self.save_dir) / "last_checkpoint", last_filename_basename)

    def last_checkpoint(self) -> Path:
        """Return the file to resume from.

        Raises:
            UserError: there is none, or it has been removed.
        """
        if not self.has_checkpoint():
            raise UserError(
                f"--resume: {self.save_dir} has no checkpoint (no file last_checkpoint); start without "
                "--resume, or set train.output_dir to the folder of the run"
            )
        file = Path(self.get_checkpoint_file())
        if not file.is_file():
            raise UserError(
                f"--resume: {file} is named by {self.save_dir}/last_checkpoint but is not there; write the "
                "name of another checkpoint of that folder into last_checkpoint"
            )
        return file

    def _model_entries(self) -> dict[str, Any]:
        boxes = {BOX_CONVENTION: self.box_convention, BOX_DECODER: self.box_decoder}
        return {"model": self.model.state_dict(), **{key: text for key, text in boxes.items() if text}}

    def _write(self, name: str, data: dict[str, Any]) -> None:
        target = Path(self.save_dir) / f"{name}.pth"
        self.logger.info("Saving checkpoint to %s", target)
        try:
            write_file(target, partial(torch.save, data))
        except UserError as error:
            raise UserError(f"{error}; earlier checkpoints are untouched: continue with --resume") from error

    def _load_file(self, filename: str) -> dict[str, Any]:
        try:
            contents = super()._load_file(filename)
        except Exception as error:  # a damaged pickle can fail in any way
            raise unreadable(error, filename) from error
        self.entries = frozenset(contents)
        return checked_contents(contents, filename)

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        # The caller knows whether this is an error, so nothing is logged here.
        self.incompatible = incompatible
        self.other_shapes = {name: (theirs, ours) for name, theirs, ours in incompatible.incorrect_shapes}

    def describe_shapes(self, names: Iterable[str]) -> str:
        """Return the shapes in the file and in the model of the first of some tensors."""
        ordered = sorted(names)
        shown = []
        for name in ordered[:3]:
            theirs, ours = self.other_shapes[name]
            shown.append(f"{name} is {theirs} in the file and {ours} in the model")
        return "; ".join(shown) + (f"; and {len(ordered) - 3} more" if len(ordered) > 3 else "")


def checked_contents(contents: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Return the contents of a file with its weights under ``model``, after looking at them.

    Args:
        contents: what Detectron2's checkpointer has read: ``model`` and maybe more. Weights under
            ``model.state_dict``, where a file with ``state_dict`` at its top has them, are taken from there.
        origin: how the error calls the file.

    Raises:
        UserError: there are no weights, some of them are no tensors, or some are not finite.
    """
    weights = contents["model"]
    if isinstance(weights, Mapping) and isinstance(weights.get("state_dict"), Mapping):
        weights = weights["state_dict"]
    tensors = _tensors(weights) if isinstance(weights, Mapping) else {}
    if not tensors:
        raise UserError(
            f"{origin} holds no weights: give one that has tensors under model or state_dict, or at its top"
        )
    others = [f"{name} ({type(weights[name]).__name__})" for name in weights if name not in tensors]
    if others:
        raise UserError(
            f"{origin} has other values than tensors among its weights: {_some(others)}; save it again as "
            '{"model": state_dict}'
        )
    broken = [name for name, value in tensors.items() if not _finite(value)]
    if broken:
        raise UserError(
            f"{origin} has weights that are not finite: {_some(broken)}; take a checkpoint from before that"
        )
    return {**contents, "model": weights}


def unreadable(error: Exception, origin: str) -> UserError:
    """Return the error for a file that could not be read."""
    foreign = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
    if foreign:
        return UserError(
            f"checkpoint {origin} has other objects than tensors in it ({foreign[1]}): a published file goes "
            "through tools/convert_checkpoint.py; one that you trust you can read by "
            'torch.load(file, weights_only=False) and save again as {"model": state_dict} with tensors only'
        )
    return UserError(
        f"checkpoint {origin} cannot be read: {reason(error)}; it is cut short or no PyTorch checkpoint: "
        "copy or download it again"
    )


def _tensors(weights: Mapping[Any, Any]) -> dict[str, torch.Tensor | np.ndarray]:
    return {
        name: value
        for name, value in weights.items()
        if isinstance(name, str) and isinstance(value, (torch.Tensor, np.ndarray))
    }


def _finite(value: torch.Tensor | np.ndarray) -> bool:
    value = torch.as_tensor(value)
    # The sum of finite values may overflow, but is quick to take; what it leaves open is looked at.
    return not value.is_floating_point() or bool(value.sum().isfinite()) or bool(value.isfinite().all())


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
