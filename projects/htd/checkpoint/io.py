"""Reading checkpoint files without running anything in them, and writing them whole or not at all."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from htd.checkpoint import unpickle
from htd.checkpoint.formats import DETECTRON2, Foreign, recognize
from htd.errors import UserError, reason
from htd.files import write_file


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a file that ``torch.save`` wrote, whoever it comes from.

    No code from the file is run and no module that it names is imported: objects of unknown classes
    become placeholders (see :mod:`htd.checkpoint.unpickle`). Where the file's layout allows it the
    tensors are mapped, so that only what is used is read.

    Raises:
        UserError: no such file, truncated, no checkpoint, or a file that would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no checkpoint file {path}")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty: download it again")
    options = {"map_location": "cpu", "weights_only": False, "pickle_module": unpickle}
    try:
        contents = torch.load(path, mmap=_can_be_mapped(path), **options)
    except UserError:
        raise
    except unpickle.RefusedCallError as error:
        raise UserError(f"{path} is refused, because reading it would run code: {error}") from error
    except Exception as error:  # a damaged pickle can fail in any way
        raise UserError(
            f"{path} is truncated, damaged or no PyTorch checkpoint ({reason(error)}): download it again"
        ) from error
    if not isinstance(contents, dict):
        raise UserError(f"{path} holds a {type(contents).__name__} and no weights")
    return contents


def _can_be_mapped(path: Path) -> bool:
    """Tell whether tensors lie in the file as they are; refuse what ``torch.load`` would not unpickle.

    Its ways for programs and for tar archives lead past the unpickler.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            entries = file.infolist()
        if any(entry.filename.endswith("/constants.pkl") for entry in entries):
            raise UserError(f"{path} is a TorchScript program, not a checkpoint: its code is not run")
        return all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    if tarfile.is_tarfile(path):
        raise UserError(f"{path} is a tar archive, not a checkpoint: unpack it first")
    return False


def state_dict_of(contents: Mapping[str, Any], origin: str | Path) -> dict[str, Tensor]:
    """Return the weights of a checkpoint: under ``state_dict``, under ``model``, or at the top.

    Args:
        contents: result of :func:`read_checkpoint`.
        origin: how the error calls the file.

    Raises:
        UserError: what is there is not a mapping of names to tensors.
    """
    found = _weights_in(contents)
    if not isinstance(found, Mapping) or not found:
        raise UserError(f"{origin} holds no weights")
    wrong = [str(k) for k, v in found.items() if not (isinstance(k, str) and isinstance(v, Tensor))]
    if wrong:
        raise UserError(f"{origin}: these entries of its state dict are no tensors: {', '.join(wrong)}")
    return dict(found)


def _weights_in(contents: Mapping[str, Any]) -> Any:
    return next((contents[key] for key in ("state_dict", "model") if key in contents), contents)


def check_output(path: str | Path, source: str | Path) -> Path:
    """Return the path of a file to write, after refusing what could not be written or not be loaded.

    Raises:
        UserError: a folder, a folder that does not exist, the input itself, an ending other than ``.pth``.
    """
    path = Path(path)
    if path.suffix != ".pth":
        raise UserError(f"the output {path.name} has to end in .pth, by which Detectron2 knows the layout")
    if path.is_dir():
        raise UserError(f"the output {path} is a folder")
    if not path.parent.is_dir():
        raise UserError(f"the folder of the output {path} does not exist")
    if path.exists() and Path(source).exists() and path.samefile(source):
        raise UserError(f"the output {path} is the input: name another file")
    return path


def write_checkpoint(path: str | Path, weights: Mapping[str, Tensor], **notes: str) -> None:
    """Write weights as Detectron2's checkpointer loads them; an existing file is replaced at the end.

    Args:
        path: the file.
        weights: our name → tensor.
        notes: further entries, texts only.

    Raises:
        UserError: the file cannot be written.
    """
    write_file(path, partial(torch.save, {"model": dict(weights), **notes}))


class Unconverted(NamedTuple):
    """A published file as it is.

    Attributes:
        title: how messages call what it holds.
        advice: what to do with it where no conversion exists; "" where one does.
    """

    title: str
    advice: str


def find_unconverted(path: str | Path) -> Unconverted | None:
    """Return what a published file that was not converted holds, None if ``path`` is no such file.

    Only a local file of PyTorch can be one; its tensors are not read.

    Raises:
        UserError: the file is damaged or would run code.
    """
    path = Path(path)
    if path.suffix == ".pkl" or not path.is_file():
        return None
    found = _weights_in(read_checkpoint(path))
    keys = [key for key in found if isinstance(key, str)] if isinstance(found, Mapping) else []
    kind = recognize([key.removeprefix("module.") for key in keys])
    if kind is None or kind is DETECTRON2:
        return None
    return Unconverted(kind.title, kind.advice if isinstance(kind, Foreign) else "")
