"""Checkpoints: writes that lose nothing when they are interrupted, errors that a user can act on."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer

from htd.engine.contents import checked_contents, unreadable
from htd.errors import UserError
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
