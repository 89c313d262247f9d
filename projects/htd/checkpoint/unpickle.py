"""An unpickler that never imports a module and never runs code that a file names.

Tensors and plain containers are read. Any other class becomes an inert placeholder, as published
files keep objects of their own libraries in ``meta``. A call of a function, which is how a pickle
runs code, ends the reading with :class:`RefusedCallError`. The module serves as ``pickle_module`` of
``torch.load``, which takes :class:`Unpickler` and :func:`load` from it.
"""

from __future__ import annotations

import builtins
import pickle
import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from typing import IO, Any

import torch


class RefusedCallError(pickle.UnpicklingError):
    """The file asks for a call that could run code."""


# Standard modules that only hold values; a call of what is in any other standard module may act.
_VALUE_MODULES = {"_codecs", "collections", "copyreg", "datetime", "decimal", "fractions", "pathlib", "uuid"}
# Calls by which NumPy rebuilds values.
_HARMLESS = {
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    "numpy.ndarray",
}
_REAL = {
    "collections.OrderedDict": OrderedDict,
    "torch.Size": torch.Size,
    "torch.device": torch.device,
    "torch._tensor._rebuild_from_type_v2": torch._tensor._rebuild_from_type_v2,
    "torch._utils._rebuild_parameter": torch._utils._rebuild_parameter,
    "torch._utils._rebuild_tensor": torch._utils._rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
    "torch.Tensor": torch.Tensor,
    "torch.nn.parameter.Parameter": torch.nn.Parameter,
} | {
    f"builtins.{name}": getattr(builtins, name)
    for name in ("bool", "bytearray", "complex", "dict", "float", "frozenset", "int", "list", "set", "tuple")
}


class _Inert(type):
    """Makes a call of a placeholder, which only a call in the file causes, harmless or an error."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Placeholder:
        if cls.acts:
            raise RefusedCallError(f"it asks to call {cls.origin}")
        return object.__new__(cls)


class Placeholder(metaclass=_Inert):
    """Stands for an object of a class that is not imported; takes and forgets its contents.

    Attributes:
        origin: full name in the file.
        acts: whether a call of it could run code.
    """

    origin = ""
    acts = False

    def __new__(cls, *args: Any, **kwargs: Any) -> Placeholder:
        return object.__new__(cls)

    def _forget(self, *args: Any) -> None:
        pass

    __setstate__ = __setitem__ = append = extend = add = _forget


def _may_act(module: str, name: str) -> bool:
    """Tell whether a call could run code; functions are told from classes by how they are spelt."""
    package = module.partition(".")[0]
    if package in _VALUE_MODULES or f"{module}.{name}" in _HARMLESS:
        return False
    return package in sys.stdlib_module_names or not name.rpartition(".")[2].lstrip("_")[:1].isupper()


class Unpickler(pickle.Unpickler):
    """Reads tensors and containers, and placeholders for everything else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what a global name of the file stands for, without importing it."""
        # Old protocols spell the standard library as Python 2 did.
        module, name = NAME_MAPPING.get((module, name), (module, name))
        module = IMPORT_MAPPING.get(module, module)
        full = f"{module}.{name}"
        if full in _REAL:
            return _REAL[full]
        if module == "torch" and isinstance(vars(torch).get(name), torch.dtype):
            return getattr(torch, name)
        return _Inert("Placeholder", (Placeholder,), {"origin": full, "acts": _may_act(module, name)})


def load(file: IO[bytes], **options: Any) -> Any:
    """Read one pickle from an open file."""
    return Unpickler(file, **options).load()
