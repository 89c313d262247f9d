"""Describes the environment: versions, which Detectron2 it is, what it lacks, what is used instead."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

from htd.requirements import torchvision_operators_loaded

_PACKAGES = ("torch", "torchvision", "numpy", "fvcore", "omegaconf", "hydra-core", "timm")
_LOST_WITHOUT_C = "rotated boxes, Detectron2's DeformConv"
_LOST_IN_05 = "FCOS"


def evaluation_backend() -> str:
    """Name what computes COCO's numbers: hotcoco, else Detectron2's own, else pycocotools."""
    hotcoco = _version("hotcoco")
    if hotcoco and importlib.util.find_spec("hotcoco"):
        return f"hotcoco {hotcoco}"
    if _has_compiled_detectron2():
        return "detectron2._C"
    pycocotools = _version("pycocotools")
    return f"pycocotools {pycocotools} (slow; pip install hotcoco)" if pycocotools else "none"


def collect_env() -> str:
    """Return the table of the environment, one entry per line; it works in a broken environment, too."""
    table = {"htd": _version("htd") or "not installed, only on the path"}
    table |= {"python": platform.python_version()} | {name: _version(name) or "-" for name in _PACKAGES}
    table["opencv"] = _version("opencv-python-headless") or _version("opencv-python") or "-"
    table["detectron2"] = _detectron2()
    lost = [] if _has_compiled_detectron2() else [_LOST_WITHOUT_C]
    lost += [_LOST_IN_05] if (_version("detectron2") or "").startswith("0.5") else []
    table["unavailable"] = ", ".join(lost) or "-"
    table["COCO evaluation"] = evaluation_backend()
    table["deformable conv"] = "own gather on CPU, torchvision.ops elsewhere"
    table["torchvision ops"] = _torchvision_operators()
    table["devices"] = _devices()
    width = max(map(len, table)) + 2
    return "\n".join(f"{name:<{width}}{value}" for name, value in table.items())


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _has_compiled_detectron2() -> bool:
    try:
        return importlib.util.find_spec("detectron2._C") is not None
    except Exception:  # find_spec imports detectron2 itself, which fails in as many ways as torch does
        return False


def _detectron2() -> str:
    installed = _version("detectron2")
    if installed is None:
        return "NOT INSTALLED: python tools/install_detectron2.py"
    if _has_compiled_detectron2():
        return f"{installed} (official, detectron2._C present)"
    return f"{installed} ({'pure Python, ' if 'pure' in installed else ''}no detectron2._C)"


def _torchvision_operators() -> str:
    try:
        loaded = torchvision_operators_loaded()
    except ModuleNotFoundError as error:
        return f"NOT LOADED: {error}"
    except Exception as error:  # a torchvision built for another torch ends in almost any kind of error
        return f"NOT LOADED: torch and torchvision builds differ ({str(error).splitlines()[0]})"
    return "loaded" if loaded else "NOT LOADED: torch and torchvision builds differ"


def _devices() -> str:
    cores = f"{os.cpu_count()} CPU cores"
    try:
        import torch

        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    except Exception as error:  # torch is missing, or the driver does not fit it: that belongs into the table
        return f"{cores}, no torch device ({str(error).splitlines()[0]})"
    return ", ".join([cores, f"CUDA of torch {torch.version.cuda or '-'}", *(names or ["no GPU"])])


if __name__ == "__main__":
    sys.stdout.write(collect_env() + "\n")
